"""A federation small enough to derive results by hand: two modules, planted groups, no model."""

from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch

from fedlease.core.adapters import initial_adapter
from fedlease.core.seeds import generator
from fedlease.core.types import Budget, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.methods.base import Terms
from fedlease.methods.registry import make_method

SHAPES = {"layer.0.query": (6, 4), "layer.10.value": (6, 6)}
R = 2
CLIENTS = {f"{group}{number}": 10 * (number + 1) for group in "ab" for number in range(3)}
"""Two groups of three clients with 10, 20 and 30 rows."""


def made(name: str, budget: Budget, **parameters: Any) -> Any:
    """A method from its settings: those that all methods share, and those of its own section."""
    shared = {field.name for field in fields(Terms)} & parameters.keys()
    terms = Terms(budget, **{key: parameters[key] for key in shared})
    return make_method(name, terms, {key: value for key, value in parameters.items() if key not in shared})


def within(state: Any, name: str) -> Any:
    """A field of a state or of one within it."""
    while name not in vars(state):
        state = state.inner
    return getattr(state, name)


def adapter(seed: int = 0) -> ClientModel:
    """The common start on the two modules."""
    return initial_adapter(SHAPES, r=R, alpha=4, dropout=0.0, seed=seed)


def train(client: str, task: ClientTask, rows: int, seed: int = 0) -> ClientUpdate:
    """Stands for local training: moves every trainable tensor in a direction of the client's group, plus noise."""
    group = client[0]
    moved: dict[str, torch.Tensor] = {}
    for name, start in task.expected.items():
        direction = drawn(name, start, seed, "direction", group, name.rsplit("/", 1)[0])
        moved[name] = start + direction + 0.05 * drawn(name, start, seed, "noise", client, task.round, name)
    # The groups choose different candidates, where there are any.
    choice = (ord(group) - ord("a")) % len(task.model.candidates) if task.model.candidates and not task.halves else None
    return ClientUpdate(client, task.phase, task.round, rows, moved, choice, metrics={"loss": 0.5})


def drawn(name: str, like: torch.Tensor, seed: int, *purpose: str | int) -> torch.Tensor:
    """Normal values; those of a lower rank are the first of rank 2, as in training from one nested basis."""
    shape = {"A": (R, like.shape[-1]), "B": (like.shape[0], R)}.get(TensorName.parse(name).kind, tuple(like.shape))
    return _normal(shape, seed, *purpose)[tuple(map(slice, like.shape))]


@cache
def _normal(shape: tuple[int, ...], seed: int, *purpose: str | int) -> torch.Tensor:
    """Drawn once for all methods, which train the same clients."""
    return torch.randn(shape, generator=generator(seed, *purpose))


def constant(update: ClientUpdate, value: float) -> ClientUpdate:
    """The same update with every tensor filled with one value."""
    filled: Tensors = {name: torch.full_like(tensor, value) for name, tensor in update.tensors.items()}
    return replace(update, tensors=filled)
