"""Experts per token, by layer and by task, and sentences about them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlease.core.wording import expert_name
from fedlease.reporting.run.data import RunData, mean

__all__ = ["Depth", "adapter_names", "short_modules", "usage_by_depth", "usage_sentence"]

SAME = 0.1
"""Difference in experts per token up to which two values count as the same."""


ROLES = {
    "fedalt": ("own adapter", "mean of the others"),
    "feddpa": ("shared adapter", "own adapter"),
    "fedtreelora": ("own group", "everyone outside it"),
}
"""Method -> roles of the parts of its mixtures, in the order of weights, if these are not numbered experts."""


@dataclass(frozen=True)
class Depth:
    """One layer of the base model.

    Attributes:
        name: its number, or the module's name if that contains no number.
        by_task: task -> experts per token, mean over the task's clients and the layer's modules.
        overall: experts per token, mean over all clients and the layer's modules.
    """

    name: str
    by_task: Mapping[str, float]
    overall: float


def usage_by_depth(run: RunData) -> tuple[Depth, ...]:
    """Layers from the input to the output; () without a router."""
    found: dict[str, dict[str, list[float]]] = {}
    everyone: dict[str, list[float]] = {}
    for client, modules in sorted(run.usage().items()):
        for module, row in modules.items():
            layer = _layer(module)
            found.setdefault(layer, {}).setdefault(run.task(client), []).append(row.experts_per_token)
            everyone.setdefault(layer, []).append(row.experts_per_token)
    names = sorted(found, key=lambda name: (0, int(name)) if name.isdecimal() else (1, 0))
    return tuple(
        Depth(
            name, {task: sum(v) / len(v) for task, v in found[name].items()}, sum(everyone[name]) / len(everyone[name])
        )
        for name in names
    )


def usage_sentence(run: RunData) -> str:
    """Says whether deeper layers use more experts, and which tasks do."""
    layers = usage_by_depth(run)
    if not layers:
        return "Nothing was routed, so there is no expert usage."
    return f"{_depth_sentence(layers)} {_task_sentence(layers)}".strip()


def adapter_names(method: str, count: int) -> list[str]:
    """Names of the parts of a method's mixtures, in the order of the weights."""
    roles = ROLES.get(method, ())
    return list(roles) if len(roles) == count else [expert_name(number) for number in range(count)]


def short_modules(modules: Sequence[str]) -> list[str]:
    """``bert.encoder.layer.3.attention.self.query`` -> ``3 query``; full names if short ones are not unique."""
    short = [m if _layer(m) == m else f"{_layer(m)} {m.rsplit('.', 1)[-1]}" for m in modules]
    return short if len(set(short)) == len(short) else list(modules)


def _depth_sentence(layers: tuple[Depth, ...]) -> str:
    if len(layers) < 2:
        return f"The one layer with experts uses {layers[0].overall:.2f} experts per token on average."
    half = len(layers) // 2
    first, last = mean(d.overall for d in layers[:half]), mean(d.overall for d in layers[-half:])
    assert first is not None and last is not None  # half is at least 1
    which = ("the first layer averages", "the last") if half == 1 else (f"the first {half} average", f"the last {half}")
    numbers = f"{which[0]} {first:.2f} experts per token, {which[1]} {last:.2f}"
    if last - first > SAME:
        return f"Deeper layers use more experts: {numbers}."
    if first - last > SAME:
        return f"Deeper layers use fewer experts: {numbers}."
    return f"Deeper layers use about as many experts: {numbers}."


def _task_sentence(layers: tuple[Depth, ...]) -> str:
    collected: dict[str, list[float]] = {}
    for layer in layers:
        for task, value in layer.by_task.items():
            collected.setdefault(task, []).append(value)
    if len(collected) < 2:
        return ""
    means = {task: sum(values) / len(values) for task, values in collected.items()}
    most, least = max(means, key=lambda t: means[t]), min(means, key=lambda t: means[t])
    if means[most] - means[least] <= SAME:
        return f"All tasks use about as many, {means[least]:.2f} to {means[most]:.2f}."
    return f"Clients of {most} use most, {means[most]:.2f} on average, and those of {least} least, {means[least]:.2f}."


def _layer(module: str) -> str:
    """The first whole number in a module's name, which is the layer's in every architecture; or the name itself."""
    return next((part for part in module.split(".") if re.fullmatch(r"[0-9]+", part)), module)
