"""Checks before any training that settings and clients fit together."""

from collections.abc import Collection, Mapping, Sequence

from fedlease.config.faults import nearest
from fedlease.config.sections import DEFAULT
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId
from fedlease.data.faults import quoted
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.methods.base import Method, rounds_for_warmup
from fedlease.methods.head import Head
from fedlease.methods.registry import CENTRALISED
from fedlease.runs.building import methods_of
from fedlease.runs.open import Loaded, participation_of
from fedlease.runs.privacy import terms_of
from fedlease.runs.sums import sketch_fault, sum_fault
from fedlease.server.filters import make_filters
from fedlease.server.schedule import make_schedule

__all__ = ["check_fit"]

SHOWN = 5
"""Most clients with one label list that are named."""


def check_fit(
    loaded: Loaded,
    heads: Mapping[ClientId, Head],
    cards: Mapping[ClientId, ClientCard],
    others: Collection[ClientId] | None = (),
) -> None:
    """Checks that every step can have its quorum, heads can be shared, and every method can start.

    Under differential privacy, it also computes the noise of every client, so that a run fails before it starts.

    Args:
        loaded: settings of the run and initial adapter.
        heads: client -> initial head.
        cards: client -> its card, for all clients.
        others: clients that take no part, which settings may name; None if any client may come later.

    Raises:
        ConfigError: settings and clients do not fit together; the message has all faults.
    """
    settings, adapter = loaded.settings, loaded.adapter
    weights = {client: card.weight for client, card in sorted(cards.items()) if card.weight}
    methods = methods_of(settings, heads)
    waves = any(name != CENTRALISED and not rounds_for_warmup(method) for name, method in methods.items())
    faults = [participation_of(settings).quorum_fault(len(weights), waves=waves)]
    faults.append(_schedule_fault(settings))
    faults.append(sum_fault(settings, len(weights)))
    faults.append(sketch_fault(settings, adapter))
    faults += [settings.lora.fault_of(client) for client in sorted(cards)]
    if others is not None:
        known = {*cards, *others, DEFAULT}
        faults += [f"lora.r: no client {c!r}{nearest(c, cards)}" for c in settings.lora.named if c not in known]
    if settings.early_stopping.patience is not None and not any(card.valid_rows for card in cards.values()):
        faults.append(
            "early_stopping.patience: compares rounds on validation rows, and no client has any; bring validation "
            f"files or set data.valid_fraction, such as 0.1, received {settings.early_stopping.patience}"
        )
    make_filters(settings.filters)
    if settings.head == "shared":
        faults += [_lists_fault(name, method.method, loaded, heads, sorted(cards)) for name, method in methods.items()]
    try:
        if (terms := terms_of(settings, secret=False)) is not None:
            for rows in sorted({*weights.values()}):
                terms.noise(rows)
    except ConfigError as error:
        faults += error.faults
    if not any(faults):
        for method in methods.values():
            method.init(adapter, weights, settings.seed)
    if found := list(dict.fromkeys(filter(None, faults))):
        raise ConfigError(found)


def _schedule_fault(settings: Settings) -> str:
    """The reason why rounds would end with too few updates; empty if they would not."""
    replies, needed = settings.schedule.replies, settings.min_clients
    if make_schedule(*settings.schedule.values()).closes(1, needed - 1):
        return f"schedule.replies: {replies} usable updates close a round, but min_clients asks for {needed}"
    return ""


def _lists_fault(
    name: str, method: Method, loaded: Loaded, heads: Mapping[ClientId, Head], clients: Sequence[ClientId]
) -> str:
    """The reason why the heads of a method's groups cannot be averaged; empty if they can.

    If groups are not known yet, any clients may be in one, so that all need the same label list.
    """
    # This is the method without heads, since the one with heads would raise at the first group.
    state = method.init(loaded.adapter, dict.fromkeys(clients, 1), loaded.settings.seed)
    groups: dict[object, dict[tuple[str, ...], list[ClientId]]] = {}
    for client in clients:
        group: object = method.group(state, client)
        if isinstance(group, int) and group < 0:
            group = state.planned.get(client, "any")
        groups.setdefault(group, {}).setdefault(heads[client].labels, []).append(client)
    lists = next((lists for lists in groups.values() if len(lists) > 1), None)
    if lists is None:
        return ""
    found = "; ".join(f"{_named(alike)}: {', '.join(labels)}" for labels, alike in lists.items())
    return (
        f"head: 'shared' needs equal label lists within a group, and the clients that {name} may put into one group "
        f"have several ({found}); data.labels can set one list for your files, and head=local shares no heads"
    )


def _named(clients: list[ClientId]) -> str:
    return f"client{'s' * (len(clients) > 1)} {quoted(clients, SHOWN)}"
