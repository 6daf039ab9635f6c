"""Checked, weighted means of named tensors, and the checks an update passes before it may enter one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedlease.core.choices import Weighting
from fedlease.core.types import ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.errors import UpdateRefusedError

__all__ = [
    "MAX_VALUE",
    "ClusterMeans",
    "Mean",
    "check_update",
    "client_weights",
    "clusters",
    "mean_update",
    "shares",
    "weighted_mean",
    "weighted_uploads",
]

MAX_EXAMPLES = 10**12
"""Largest row count that a client may announce; a larger one would only serve to outweigh the other clients."""

MAX_VALUE = 1e6
"""Largest absolute value in an update; a finite value beyond it could still carry a mean away."""


class Mean(Protocol):
    """How several states become one: :func:`weighted_mean`, or another with the same arguments."""

    def __call__(self, states: Sequence[Tensors], weights: Sequence[float], /) -> dict[str, Tensor]:
        """The mean, under the names of the states.

        Args:
            states: one mapping per client, all with the same names, shapes and floating dtypes.
            weights: one finite, non-negative weight per state, with a positive sum.
        """


def shares(states: Sequence[Tensors], weights: Sequence[float]) -> list[float]:
    """Checks states and weights, and scales the weights to sum 1.

    Raises:
        ValueError: no states, or names, shapes, dtypes or weights do not fit; the message names the tensor.
    """
    if not states:
        raise ValueError("a mean needs at least one state, received none")
    if len(weights) != len(states):
        raise ValueError(f"a mean needs one weight per state, received {len(weights)} for {len(states)}")
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
        for name, like in first.items():
            if state[name].shape != like.shape or state[name].dtype != like.dtype:
                raise ValueError(
                    f"{name}: states must agree in shape and dtype, received {tuple(like.shape)} {like.dtype} "
                    f"and {tuple(state[name].shape)} {state[name].dtype}"
                )
    for name, like in first.items():
        if not like.is_floating_point():
            raise ValueError(f"{name}: only floating tensors can be averaged, received {like.dtype}")
    return [weight / total for weight in weights]


def weighted_mean(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """Mean of several states, name by name, accumulated in float64.

    Args:
        states: one mapping per client, all with the same names, shapes and floating dtypes.
        weights: one finite, non-negative weight per state, with a positive sum.

    Returns:
        The mean, in the dtype of the inputs, names sorted.

    Raises:
        ValueError: as :func:`shares`.
    """
    scaled = shares(states, weights)
    mean: dict[str, Tensor] = {}
    for name in sorted(states[0]):
        like = states[0][name]
        accumulated = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
        for state, share in zip(states, scaled, strict=True):
            accumulated += state[name].detach().to(torch.float64) * share
        mean[name] = accumulated.to(like.dtype)
    return mean


def client_weights(rows: Mapping[ClientId, int], weighting: Weighting) -> dict[ClientId, float]:
    """Weight of every client in a mean: its number of rows, or 1."""
    return {client: 1.0 if weighting == "uniform" else float(count) for client, count in rows.items()}


def weighted_uploads(updates: Sequence[ClientUpdate], weighting: Weighting) -> tuple[list[Tensors], list[float]]:
    """Uploads and weights, sorted by client, so that the order of arrival does not change the mean."""
    tensors = {update.client: update.tensors for update in updates}
    weights = client_weights({update.client: update.num_examples for update in updates}, weighting)
    return [tensors[client] for client in sorted(tensors)], [weights[client] for client in sorted(tensors)]


def mean_update(updates: Sequence[ClientUpdate], weighting: Weighting = "num_examples") -> dict[str, Tensor]:
    """Mean of at least one update, see :func:`weighted_uploads`."""
    return weighted_mean(*weighted_uploads(updates, weighting))


@dataclass(frozen=True)
class ClusterMeans:
    """One mean per cluster, of the uploads of its clients.

    Attributes:
        mean: averages one cluster.
        needs: clients that a cluster must have for its mean to outvote one of them; 0 for a mean that never does.
    """

    mean: Mean = weighted_mean
    needs: int = 0

    def __call__(
        self, uploads: Mapping[ClientId, Tensors], weights: Mapping[ClientId, float], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        """Cluster -> its mean; a cluster without an upload is left out.

        Args:
            uploads: client -> tensors.
            weights: client -> weight, for at least the clients in ``uploads``.
            assignment: client -> cluster, for at least the clients in ``uploads``.
        """
        means = {}
        for cluster, members in clusters(uploads, assignment).items():
            means[cluster] = self.mean([uploads[client] for client in members], [weights[c] for c in members])
        return means


def clusters(clients: Iterable[ClientId], assignment: Mapping[ClientId, int]) -> dict[int, list[ClientId]]:
    """Cluster -> its members among the clients, both sorted."""
    found: dict[int, list[ClientId]] = {}
    for client in sorted(clients):
        found.setdefault(assignment[client], []).append(client)
    return dict(sorted(found.items()))


def check_update(
    task: ClientTask, client: ClientId, update: ClientUpdate, expected_examples: int | None = None
) -> None:
    """Refuses an update that does not answer its task; one bad update would spoil its whole cluster.

    Args:
        task: sent to the client.
        client: to which the task was sent.
        update: the client's answer.
        expected_examples: the row count that the client announced at the start, where it is known.

    Raises:
        UpdateRefusedError: wrong client, phase, round, names, shapes or dtypes; values that are not finite or beyond
            :data:`MAX_VALUE`; a row count that is not an integer in 1 .. :data:`MAX_EXAMPLES` or not the announced
            one; or a choice that is not a candidate.
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
    choices = range(0 if task.halves else len(task.model.candidates))
    if update.choice not in choices if choices else update.choice is not None:
        rule = f"in 0 .. {len(choices) - 1}" if choices else "None, as there are no candidates"
        raise refuse(f"choice must be {rule}, received {update.choice!r}")
    expected = task.expected
    if update.tensors.keys() != expected.keys():
        missing = sorted(expected.keys() - update.tensors.keys())
        extra = sorted(update.tensors.keys() - expected.keys())
        raise refuse(f"tensor names differ from what was asked: missing {missing}, not asked for {extra}")
    for name in sorted(update.tensors):
        got, like = update.tensors[name], expected[name]
        if got.shape != like.shape:
            raise refuse(f"{name} has shape {tuple(got.shape)}, expected {tuple(like.shape)}")
        if got.dtype != like.dtype:
            raise refuse(f"{name} has dtype {got.dtype}, expected {like.dtype}")
        if not bool(torch.isfinite(got).all()):
            bad = int((~torch.isfinite(got)).sum())
            raise refuse(f"{name} holds {bad} values that are NaN or infinite")
        if got.numel() and float(got.abs().max()) > MAX_VALUE:
            raise refuse(f"{name} holds values beyond {MAX_VALUE:g}, the largest is {float(got.abs().max()):g}")
