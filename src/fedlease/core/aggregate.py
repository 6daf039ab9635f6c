"""Checked, weighted means of named tensors, and the checks an update passes before it may enter one."""

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedlease.core.types import ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.errors import UpdateRefusedError

__all__ = ["MAX_VALUE", "Weighting", "check_update", "mean_update", "weighted_mean"]

Weighting = Literal["num_examples", "uniform"]

MAX_EXAMPLES = 10**12
"""No client holds more rows than this; a larger count would only serve to outweigh the others."""

MAX_VALUE = 1e6
"""No weight of an adapter or head is larger, either way; a finite one that is would still carry a mean away."""


def weighted_mean(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """Mean of several states, name by name, accumulated in float64.

    Args:
        states: one mapping per client, all with the same names, shapes and floating dtypes.
        weights: one finite, non-negative weight per state, with a positive sum.

    Returns:
        The mean, in the dtype of the inputs, names sorted.

    Raises:
        ValueError: no states, or names, shapes, dtypes or weights do not fit; the message names the tensor.
    """
    if not states:
        raise ValueError("weighted_mean needs at least one state, received none")
    if len(weights) != len(states):
        raise ValueError(f"weighted_mean needs one weight per state, received {len(weights)} for {len(states)}")
    for weight in weights:
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"weights must be finite and not negative, received {weight}")
    total = math.fsum(weights)
    if total <= 0:
        raise ValueError(f"weights must have a positive sum, received {list(weights)}")
    first = states[0]
    for state in states[1:]:
        if state.keys() != first.keys():
            odd = sorted(state.keys() ^ first.keys())
            raise ValueError(f"states must have the same names, these occur in only some: {odd}")
    mean: dict[str, Tensor] = {}
    for name in sorted(first):
        like = first[name]
        if not like.is_floating_point():
            raise ValueError(f"{name}: only floating tensors can be averaged, received {like.dtype}")
        accumulated = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        for state, weight in zip(states, weights, strict=True):
            tensor = state[name]
            if tensor.shape != like.shape or tensor.dtype != like.dtype:
                raise ValueError(
                    f"{name}: states must agree in shape and dtype, received {tuple(like.shape)} {like.dtype} "
                    f"and {tuple(tensor.shape)} {tensor.dtype}"
                )
            accumulated += tensor.detach().to(torch.float64) * (weight / total)
        mean[name] = accumulated.to(like.dtype)
    return mean


def mean_update(
    updates: Sequence[ClientUpdate], names: Collection[str] | None = None, *, weighting: Weighting = "num_examples"
) -> dict[str, Tensor]:
    """Mean over updates, summed in the order of client ids so that arrival order changes no bit.

    Args:
        updates: at least one.
        names: which uploaded tensors; None takes all.
        weighting: by ``num_examples``, or ``uniform``.
    """
    ordered = sorted(updates, key=lambda update: update.client)
    states = [
        {name: tensor for name, tensor in update.tensors.items() if names is None or name in names}
        for update in ordered
    ]
    return weighted_mean(states, [1.0 if weighting == "uniform" else float(update.num_examples) for update in ordered])


def check_update(
    task: ClientTask, client: ClientId, update: ClientUpdate, expected_examples: int | None = None
) -> None:
    """Refuses an update that is not what was asked for; one bad update would spoil its whole cluster.

    Args:
        task: what the client was asked.
        client: who was asked.
        update: what came back.
        expected_examples: the row count the client gave at the start, where it is known.

    Raises:
        UpdateRefusedError: wrong client, phase, round, names, shapes or dtypes, values that are not finite or beyond
            :data:`MAX_VALUE`, or a sample count that is no positive integer, absurd, or not the announced one, or a
            choice of no candidate.
    """

    def refuse(reason: str) -> UpdateRefusedError:
        return UpdateRefusedError(client, reason)

    if update.client != client:
        raise refuse(f"update is from client {update.client!r}")
    if (update.phase, update.round) != (task.phase, task.round):
        raise refuse(
            f"update belongs to {update.phase!r} round {update.round}, expected {task.phase!r} round {task.round}"
        )
    count = update.num_examples
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MAX_EXAMPLES:
        raise refuse(f"num_examples must be an integer in 1 .. {MAX_EXAMPLES}, received {count!r}")
    if expected_examples is not None and count != expected_examples:
        raise refuse(f"num_examples is {count}, the client announced {expected_examples}")
    choices = range(len(task.model.candidates))
    if update.choice not in choices if choices else update.choice is not None:
        rule = f"in 0 .. {len(choices) - 1}" if choices else "None, there are no candidates"
        raise refuse(f"choice must be {rule}, received {update.choice!r}")
    if update.tensors.keys() != task.upload:
        missing = sorted(task.upload - update.tensors.keys())
        extra = sorted(update.tensors.keys() - task.upload)
        raise refuse(f"tensor names differ from what was asked: missing {missing}, not asked for {extra}")
    for name in sorted(update.tensors):
        got, like = update.tensors[name], task.model.tensors[name]
        if got.shape != like.shape:
            raise refuse(f"{name} has shape {tuple(got.shape)}, expected {tuple(like.shape)}")
        if got.dtype != like.dtype:
            raise refuse(f"{name} has dtype {got.dtype}, expected {like.dtype}")
        if not bool(torch.isfinite(got).all()):
            bad = int((~torch.isfinite(got)).sum())
            raise refuse(f"{name} holds {bad} values that are NaN or infinite")
        if got.numel() and float(got.abs().max()) > MAX_VALUE:
            raise refuse(f"{name} holds values beyond {MAX_VALUE:g}, the largest is {float(got.abs().max()):g}")
