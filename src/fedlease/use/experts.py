"""The experts of a run, by their numbers in its summary: their clients, and each one as a single adapter."""

from fedlease.core.folding import expert_alone
from fedlease.core.types import ClientId, ClientModel
from fedlease.use.open_run import OpenRun

__all__ = ["expert_model", "experts_of"]


def experts_of(run: OpenRun) -> dict[int, list[ClientId]]:
    """Expert -> its clients; empty for a method without experts.

    Experts of FedTreeLoRA are the groups of the last layer; those of IFCA are the candidates that some client chose.
    """
    found: dict[int, list[ClientId]] = {}
    for client in sorted(run.clients):
        expert = run.expert_of(client)
        if expert is not None:
            found.setdefault(expert, []).append(client)
    return dict(sorted(found.items()))


def expert_model(run: OpenRun, client: ClientId) -> ClientModel:
    """A client's expert, as the server has it, as a single adapter; with a head if heads are shared or frozen.

    If clients have unequal ranks, it has the largest one. The spec gives the expert's index among the client's
    adapters, which is not its number: FedTreeLoRA puts the group's adapter first, and a client without a router has
    one adapter.
    """
    model = run.received(client, run.settings.lora.largest)
    return expert_alone(model, model.spec.own)
