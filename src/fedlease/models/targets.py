"""The modules of a base model that are adapted."""

import re
from collections.abc import Mapping, Sequence

from torch import nn

from fedlease.errors import ModelError
from fedlease.models.base import BaseModel

__all__ = ["target_shapes"]

KNOWN_TARGETS = (
    ("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("query_proj", "value_proj"), ("q", "v"),
    ("c_attn",), ("Wqkv",), ("qkv_proj",), ("query_key_value",), ("in_proj",),
)  # fmt: skip
"""Names of the query and value projections, or of joint projections with the key, in the architectures of transformers.
The first entry whose names all occur in a model is used."""

LAYER = re.compile(r"(?P<stack>.*?)\.(?P<number>[0-9]+)\.")
"""Beginning of a module's path: its stack, such as ``bert.encoder.layer``, and the number of its layer in it."""


def target_shapes(
    base: BaseModel,
    target_modules: Sequence[str] | None,
    r: int | Mapping[str, int],
    last_layers: int | None = None,
) -> dict[str, tuple[int, int]]:
    """The adapted modules: path -> (in features, out features).

    Args:
        target_modules: endings of names; None adapts query and value projections.
        r: rank, or client -> rank.
        last_layers: how many layers at the end of the model are adapted, of encoder and decoder if it has both; None
            adapts all.

    Raises:
        ModelError: no linear module has such an ending (the message lists the existing ones), the rank is larger than
            the smaller side of a module, or the model has fewer layers.
    """
    heads = tuple(f"{head}." for head in base.head_modules)
    found = {name: _sides(module) for name, module in base.model.named_modules()}
    linear = {name: sides for name, sides in found.items() if sides and not f"{name}.".startswith(heads)}
    endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if target_modules is None:
        known = [pair for pair in KNOWN_TARGETS if set(pair) <= set(endings)]
        if not known:
            raise ModelError(
                f"lora.target_modules: query and value projections are not known for this model; choose from {endings}"
            )
        target_modules = known[0]
    missing = [target for target in target_modules if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if missing:
        raise ModelError(
            [f"lora.target_modules: no linear module ends in {name!r}; these exist: {endings}" for name in missing]
        )
    targets = tuple(f".{target}" for target in target_modules)
    shapes = {name: sides for name, sides in linear.items() if f".{name}".endswith(targets)}
    if last_layers is not None:
        shapes = _of_last_layers(shapes, last_layers)
    narrowest = min(shapes, key=lambda name: min(shapes[name]))
    most, ranks = min(shapes[narrowest]), {"": r} if isinstance(r, int) else {f".{key}": r[key] for key in r}
    if large := [key for key, rank in ranks.items() if rank > most]:
        rule = f"must be at most {most}, the smaller side of {narrowest}"
        raise ModelError([f"lora.r{key}: {rule}, received {ranks[key]}" for key in large])
    return shapes


def _of_last_layers(shapes: Mapping[str, tuple[int, int]], count: int) -> dict[str, tuple[int, int]]:
    """The adapted modules in the last layers of every stack."""
    layers: dict[str, set[int]] = {}
    placed = {name: match for name in shapes if (match := LAYER.match(name))}
    for match in placed.values():
        layers.setdefault(match["stack"], set()).add(int(match["number"]))
    fewest = min(map(len, layers.values()), default=0)
    if count > fewest:
        raise ModelError(f"lora.last_layers: must be at most {fewest}, the layers of the model, received {count}")
    last = {stack: sorted(numbers)[-count:] for stack, numbers in layers.items()}
    return {name: shapes[name] for name, match in placed.items() if int(match["number"]) in last[match["stack"]]}


def _sides(module: nn.Module) -> tuple[int, int] | None:
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):  # GPT-2's, whose weight is (in, out)
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    sides = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (sides[0], sides[1]) if isinstance(sides[0], int) and isinstance(sides[1], int) else None
