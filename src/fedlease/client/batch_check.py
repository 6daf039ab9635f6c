"""A check before a run that a model's prediction for a row does not depend on the other rows of its batch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from fedlease.client.resident import ResidentModel
from fedlease.core.adapters import renumber
from fedlease.core.types import ANCHOR, ClientId, ClientModel, TensorName
from fedlease.data.federation import Row
from fedlease.errors import DataError, ModelError
from fedlease.methods.base import Method
from fedlease.models.base import initial_head

__all__ = ["check_batches"]

ROWS = [
    Row("a", None, 0, response="b"),
    Row("a text of some words that is longer than the others, so that they are padded", None, 0, response="a b c"),
    Row("one two three", None, 0, response="b"),
]
FINE, COARSE = (0.02, 1e-4), (0.3, 0.03)
"""Tolerances for float32, and for 16 bits or quantised weights: shares of the distance between rows and of their norm,
for rounding. A row that is read at a wrong place or position is as far off as another row."""


def check_batches(
    resident: ResidentModel,
    tokenizer: Any,
    adapter: ClientModel,
    model: str,
    methods: Mapping[str, Method],
    clients: Sequence[ClientId],
) -> None:
    """Computes three short rows alone and together, and compares the results.

    Args:
        resident: the base model; afterwards an adapter of this check is loaded in it.
        tokenizer: of the model.
        adapter: adapter that all clients start from.
        model: name of the model in the settings.
        methods: name -> method of the run, without heads; methods with the mixer ``instance`` get a check of their own.
        clients: of the run.

    Raises:
        ModelError: a row's prediction depends on the other rows or on padding, or rows cannot be computed together.
    """
    try:
        rows = resident.task.encode(ROWS, tokenizer)
    except DataError:  # the tokenizer has no tokens for these words
        return
    config: Any = resident.config
    if getattr(config, "is_encoder_decoder", False) and any(
        rows.columns["input_ids"][i][-1] != config.eos_token_id for i in range(len(rows))
    ):
        raise ModelError(
            f"model: {model!r} is read at its end token {config.eos_token_id}, which its tokenizer does not append to "
            "a text"
        )
    start = _trained(adapter)
    kinds = [("", start)]
    rows_of = dict.fromkeys(clients, 1)
    weighing = [
        name
        for name, method in methods.items()
        if method.model(method.init(adapter, rows_of, 0), clients[0]).spec.mixer == "instance"
    ]
    if weighing:
        kinds.append((f"method: {', '.join(map(repr, weighing))} weighs every input by itself; ", _weighing(start)))
    # Making an adapter draws random numbers, which must not change those of the run.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for words, candidate in kinds:
            head = initial_head(resident.head_modules(2), 0)
            resident.load(ClientModel(candidate.spec, {**candidate.tensors, **head}), 2)
            resident.for_scoring()
            try:
                if candidate.spec.anchors:
                    anchor = resident.represent(rows.questions([0], resident.device))[0]
                    resident.load(ClientModel(candidate.spec, {**candidate.tensors, **head, ANCHOR: anchor}), 2)
                compared = resident.task.apart_and_together(resident, rows)
            except (RuntimeError, ValueError, LookupError, TypeError) as error:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                raise ModelError(
                    f"{words}model: {model!r} cannot compute rows of a batch together: {reason}"
                ) from error
            exact = config.dtype == torch.float32 and getattr(config, "quantization_config", None) is None
            of_spread, of_size = FINE if exact else COARSE
            for what, (one, other) in compared.items():
                limit = of_spread * (one - one.mean(0)).norm() + of_size * one.norm()
                if not bool((one - other).norm() <= limit):
                    raise ModelError(
                        f"{words}model: the prediction of {model!r} for a row depends on {what}, so its scores would "
                        "not be reliable; choose another model"
                    )


def _trained(adapter: ClientModel) -> ClientModel:
    """The adapter with random B instead of zero, so that it has an effect."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=draw) * 0.05 if TensorName.parse(name).kind == "B" else tensor
        for name, tensor in sorted(adapter.tensors.items())
    }
    # With alpha = r: a large scale could make numbers infinite, which would hide a difference.
    return replace(adapter, spec=replace(adapter.spec, alpha=float(adapter.spec.r)), tensors=tensors)


def _weighing(adapter: ClientModel) -> ClientModel:
    """A mixture of two different experts whose weights depend on the input."""
    spec = replace(adapter.spec, num_experts=2, own=1, mixer="instance", blend=1.0, anchors=1)
    tensors = {**renumber(adapter.tensors, 0), **{n: -3 * t for n, t in renumber(adapter.tensors, 1).items()}}
    return ClientModel(spec, tensors)
