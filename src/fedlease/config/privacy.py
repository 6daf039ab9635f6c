"""Settings of differential privacy and of secure sums, and the rules about settings that exclude each other."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from fedlease.config.added_sections import section_of
from fedlease.config.layers import group_of
from fedlease.config.sections import Section
from fedlease.config.tables import known_tasks, task_facts
from fedlease.core.choices import PLUS
from fedlease.methods.facts import FACTS, kind_of, sums
from fedlease.methods.registry import CENTRALISED

__all__ = [
    "GROUPING",
    "PrivacySettings",
    "methods_asked",
    "privacy_faults",
    "sketch_faults",
    "sum_faults",
    "variant_of",
]

GROUPING = ("fedlease", "fedlease-plus")
"""Methods that group clients by their warm-ups, and have the settings of FedLEASE."""

SINGLE = "needs single updates, which privacy.secure_sums hides"
SKETCHED = "needs single warm-ups, which privacy.sketch hides"
NORM, STEP = 10.0, 8.0
"""Defaults of ``bounds.norm`` and ``bounds.step``, which remain allowed, for the warm-up."""


class PrivacySettings(Section):
    """Limits on what others may learn about a client: differential privacy (needs the extra ``privacy``) for single
    train rows, and secure sums (need the extra ``flower``) for its updates after the warm-up."""

    epsilon: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Differential privacy of every train row of a client, over all its training in the run: an observer of all that
    the client sends can hardly tell whether a row was there. Each client computes the noise for its own number of rows
    at the start. 1 is strong, 8 is usual, null adds no noise."""
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    """Probability with which ``epsilon`` may fail; it should be well below 1 / (train rows of a client)."""
    clip: Annotated[float, Field(gt=0)] = 0.02
    """Largest norm of a row's gradient, with an equal share of its square for adapter, router and head; longer ones are
    scaled down. It replaces ``train.clip_norm``."""
    secure_sums: bool = False
    """Whether the server sees only the sum over each cluster of updates after the warm-up: clients mask them, and the
    masks cancel out in the sum. Clusters need at least three clients; smaller ones join the nearest one."""
    sketch: Annotated[int, Field(ge=64)] | None = None
    """How many numbers a client sends instead of its warm-up's A and B (``fedlease``, ``fedlease-plus``): random sums,
    by which clients are grouped. The warm-ups are then summed over each cluster like updates of rounds, so that the
    server never sees the adapter of a single client. About 12000 numbers group clients as well as B, for any model; at
    most half of the numbers of B are allowed. null sends A and B; needs ``secure_sums``."""
    sum_resolution: Annotated[float, Field(ge=1e-12, le=1e-3)] = 1e-7
    """Step of the fixed-point numbers that are summed; the error of a mean is at most half of it. Smaller steps need
    more bytes."""
    sum_dropouts: Annotated[float, Field(ge=0, lt=0.5)] = 1 / 3
    """Share of a cluster that may drop out while its updates are summed; if more do, the cluster does not change in
    that round. A larger share makes cheating easier for the server, which needs the help of as many clients as remain
    after subtracting twice this share of the cluster, a third by default."""


def privacy_faults(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of settings that would reveal something that noise does not cover."""
    if group_of(raw, "privacy").get("epsilon") is None:
        return
    yield from (
        f"{key}: {rule} with privacy.epsilon, received {value!r}"
        for key, value, allowed, rule in (
            (
                "early_stopping.patience",
                group_of(raw, "early_stopping").get("patience"),
                None,
                "compares scores of validation rows, which noise does not cover; must be null",
            ),
            (
                "train.class_weights",
                group_of(raw, "train").get("class_weights") or "none",
                "none",
                "weighs every row by how many others have its label; must be none",
            ),
            (
                "task",
                raw.get("task") if _learns_numbers(raw.get("task")) else None,
                None,
                "scales numbers by the mean and the deviation of a client's own rows, which noise does not cover; "
                "must be one that learns no numbers",
            ),
        )
        if value != allowed
    )
    if CENTRALISED in methods_asked(raw):
        yield f"method: {CENTRALISED} pools the rows of all clients, which privacy.epsilon is to protect"


def variant_of(raw: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The raw settings of a method of :data:`GROUPING`, including the defaults in which FedLEASE+ differs."""
    return {**(PLUS if method == "fedlease-plus" else {}), **group_of(raw, section_of(method))}


def methods_asked(raw: Mapping[str, Any]) -> tuple[Any, ...]:
    """The unchecked method and baselines of raw settings; the method is ``fedlease`` if none is named."""
    baselines = raw.get("baselines")
    return (raw.get("method", "fedlease"), *(baselines if isinstance(baselines, list | tuple) else ()))


def sketch_faults(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of settings that need the warm-ups of single clients."""
    if (numbers := group_of(raw, "privacy").get("sketch")) is None:
        return
    if group_of(raw, "privacy").get("secure_sums") is not True:
        yield (
            f"privacy.sketch: needs privacy.secure_sums = true, by which the warm-ups are then summed, received "
            f"{numbers!r}"
        )
    asked = methods_asked(raw)
    if "fed-sb" in asked:
        yield f"method: fed-sb {SKETCHED}"
    if raw.get("head") == "shared":
        yield f"head: must be local or frozen, since a shared head {SKETCHED}, received 'shared'"
    for section in (section_of(method) for method in GROUPING if method in asked):
        if (start := group_of(raw, section).get("expert_start")) not in (None, "cluster"):
            yield f"{section}.expert_start: {SKETCHED}; must be cluster, received {start!r}"


def sum_faults(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of settings that need single updates after the warm-up."""
    if group_of(raw, "privacy").get("secure_sums") is not True:
        return
    for name in methods_asked(raw):
        if name == CENTRALISED:
            yield f"method: {CENTRALISED} pools the rows of all clients, of which privacy.secure_sums shows no update"
        elif isinstance(name, str) and not sums(name):
            able = ", ".join(one for one, facts in FACTS.items() if facts.sums)
            yield f"method: {name} {SINGLE}; must be one of {able}"
        elif raw.get("clients_per_round") is not None and kind_of(str(name)) == "groups":
            yield (
                f"clients_per_round: must be null with privacy.secure_sums and {name}, since too few of a cluster may "
                f"be drawn, received {raw['clients_per_round']!r}"
            )
        if name in GROUPING:
            yield from _variant_faults(raw, str(name))
    filters = raw.get("filters")
    for name in filters if isinstance(filters, list | tuple) else ():
        if name in ("changed", "int8", "int4"):
            yield f"filters: {name} builds on each client's last update and {SINGLE}; received {name!r}"
    if group_of(raw, "schedule").get("until") == "first":
        yield "schedule.until: must be all or deadline with privacy.secure_sums, whose sums come last, received 'first'"
    for key, value, allowed in (
        ("guarded", group_of(raw, "bounds").get("guarded"), (None, False)),
        ("against", group_of(raw, "bounds").get("against"), (None, "name")),
        ("norm", group_of(raw, "bounds").get("norm"), (None, NORM)),
        ("step", group_of(raw, "bounds").get("step"), (None, STEP)),
    ):
        if value not in allowed:
            left = f"; left at {allowed[1]!r} it covers warm-ups alone" if key in ("norm", "step") else ""
            yield f"bounds.{key}: {SINGLE}{left}, received {value!r}"


def _variant_faults(raw: Mapping[str, Any], method: str) -> Iterator[str]:
    """Yields faults of settings of FedLEASE that need more than the mean of a cluster."""
    section, given = section_of(method), variant_of(raw, method)
    if (average := given.get("average", "factors")) != "factors":
        yield f"{section}.average: must be factors, since any other mean {SINGLE}, received {average!r}"
    if (grouping := given.get("grouping")) == "clients":
        yield f"{section}.grouping: {SINGLE}, received {grouping!r}"
    if (every := given.get("reallocate")) is not None:
        yield f"{section}.reallocate: {SINGLE}; must be null, received {every!r}"
    groups = given.get("assignment")
    few = [g for g, n in Counter(groups.values()).items() if n < 3] if isinstance(groups, Mapping) else []
    if few:
        yield (
            f"{section}.assignment: groups need three clients or more with privacy.secure_sums, received fewer in "
            f"{', '.join(map(repr, few))}"
        )


def _learns_numbers(task: Any) -> bool:
    return isinstance(task, str) and task in known_tasks() and task_facts(task).rows == "values"
