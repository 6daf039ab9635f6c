"""The experts of a run, by the numbers that its summary gives them: whose they are, and each one alone."""

from fedlease.core.folding import expert_alone
from fedlease.core.types import ClientId, ClientModel
from fedlease.use.open_run import OpenRun

__all__ = ["expert_model", "experts_of"]


def experts_of(run: OpenRun) -> dict[int, list[ClientId]]:
    """Expert -> its clients; empty for a method without experts.

    Experts of FedTreeLoRA are the groups of the last layer, those of IFCA the candidates that some client chose.
    """
    found: dict[int, list[ClientId]] = {}
    for client in sorted(run.clients):
        expert = run.expert_of(client)
        if expert is not None:
            found.setdefault(expert, []).append(client)
    return dict(sorted(found.items()))


def expert_model(run: OpenRun, client: ClientId) -> ClientModel:
    """A client's expert on the server as a single adapter; with a head if heads are shared or frozen.

    Its position among the client's adapters is stated by the spec: FedTreeLoRA puts the group's first whatever its
    number, and a client that routes nothing has one adapter. Where clients have unequal ranks, it has the largest.
    """
    model = run.received(client, run.settings.lora.largest)
    return expert_alone(model, model.spec.own)
