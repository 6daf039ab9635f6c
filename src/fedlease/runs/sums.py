"""Secure sums of a run: checks of the settings, notes for the user, and the transport that computes them."""

from collections.abc import Mapping

from fedlease.client.secure_sums import Member
from fedlease.client.sum_messages import LEAST
from fedlease.config.privacy import GROUPING
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId, ClientModel
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.privacy.masking import check_sums
from fedlease.server.group_sum import Rules
from fedlease.server.secure_sums import Asking, SecureSums
from fedlease.server.transport import Transport

__all__ = ["members_of", "rules_of", "sketch_fault", "sum_fault", "sum_notes", "with_sums"]


def rules_of(settings: Settings) -> Rules | None:
    """The settings of secure sums; None without them."""
    given = settings.privacy
    if not given.secure_sums:
        return None
    return Rules(given.sum_resolution, given.sum_dropouts, settings.weights == "num_examples")


def members_of(settings: Settings, clients: Mapping[ClientId, object]) -> dict[ClientId, Member] | None:
    """Client -> its half of secure sums, for clients in this process; None without secure sums."""
    return {client: Member(client) for client in clients} if settings.privacy.secure_sums else None


def with_sums(
    transport: Transport, asking: Asking, settings: Settings, cards: Mapping[ClientId, ClientCard]
) -> Transport:
    """Wraps a transport and its filters in secure sums, if the settings ask for them.

    Args:
        transport: carries requests and replies, including its filters.
        asking: carries the messages of sums.
        settings: of the run.
        cards: client -> its card.
    """
    rules = rules_of(settings)
    return transport if rules is None else SecureSums(transport, asking, cards, rules)


def sum_fault(settings: Settings, learners: int) -> str:
    """The reason why updates cannot be summed securely; empty if they can, or need not be.

    Args:
        settings: of the run.
        learners: number of clients that can be asked.
    """
    if not settings.privacy.secure_sums:
        return ""
    try:
        check_sums()
    except ConfigError as error:
        return error.faults[0]
    if learners < LEAST:
        have = counted(learners, "client has", "clients have")
        return f"privacy.secure_sums: needs {LEAST} clients with rows to learn from, and {have} such rows"
    sampled = settings.clients_per_round
    if sampled is not None and sampled < LEAST:
        return f"clients_per_round: must be at least {LEAST} with privacy.secure_sums, received {sampled}"
    return ""


def sketch_fault(settings: Settings, adapter: ClientModel) -> str:
    """The reason why warm-ups cannot be sketched; empty if they can, or need not be."""
    if (numbers := settings.privacy.sketch) is None:
        return ""
    for name in GROUPING:
        if name in (settings.method, *settings.baselines):
            kind = "A" if settings.of_method(name)["signal"] == "A" else "B"
            whole = sum(adapter.tensors[tensor].numel() for tensor in adapter.names(kind))
            if 2 * numbers > whole:
                return f"privacy.sketch: must be at most half of the {whole} numbers of {kind}, received {numbers}"
    return ""


def sum_notes(settings: Settings) -> list[str]:
    """Sentences about values that secure sums do not cover."""
    given = settings.bounds
    if not settings.privacy.secure_sums:
        return []
    notes = [
        "privacy.secure_sums covers only rounds: the server sees every client's warm-up, scores and losses"
        if settings.privacy.sketch is None
        else "with privacy.sketch and privacy.secure_sums, the server sees a sketch of every client's warm-up and its "
        "scores and losses, but only means of adapters"
    ]
    if given.norm is not None or given.step is not None or given.copies:
        notes.append(
            "bounds.norm, bounds.step and bounds.copies check only warm-ups, since privacy.secure_sums hides single "
            "updates after them"
        )
    return notes
