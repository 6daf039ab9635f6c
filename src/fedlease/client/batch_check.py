"""A check before a run: what a model says of a row does not depend on the rows that share its batch."""

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
"""What may differ in 32 bits, and in fewer or quantised: a share of how far rows lie apart, and of their size, for
rounding. A row that is read at another place or position lies as far off as another row."""


def check_batches(
    resident: ResidentModel,
    tokenizer: Any,
    adapter: ClientModel,
    model: str,
    methods: Mapping[str, Method],
    clients: Sequence[ClientId],
) -> None:
    """Computes three short rows alone and together.

    Args:
        resident: the base model; what is loaded in it afterwards is this check's.
        tokenizer: the model's.
        adapter: the common start.
        model: its name in the settings.
        methods: of the run, without heads, since those that cannot be shared are refused elsewhere; some weigh every
            input by itself (the mixer ``instance``).
        clients: of the run.

    Raises:
        ModelError: a row's prediction depends on the others, cannot be computed with them, or on tokens behind it.
    """
    try:
        rows = resident.task.encode(ROWS, tokenizer)
    except DataError:  # a tokenizer to which these words are nothing
        return
    config: Any = resident.config
    if getattr(config, "is_encoder_decoder", False) and any(
        rows.columns["input_ids"][i][-1] != config.eos_token_id for i in range(len(rows))
    ):
        raise ModelError(
            f"model: {model!r} is read at its end token {config.eos_token_id}, which its tokenizer does not put behind "
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
    # Making an adapter draws numbers that nobody keeps.
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
                        f"{words}model: what {model!r} says of a row depends on {what}, so no score could be relied "
                        "on; choose another model"
                    )


def _trained(adapter: ClientModel) -> ClientModel:
    """The adapter with an effect: B is not zero."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=draw) * 0.05 if TensorName.parse(name).kind == "B" else tensor
        for name, tensor in sorted(adapter.tensors.items())
    }
    # Its scale is the training's business; one that leaves no finite number would hide what is looked for.
    return replace(adapter, spec=replace(adapter.spec, alpha=float(adapter.spec.r)), tensors=tensors)


def _weighing(adapter: ClientModel) -> ClientModel:
    """Two experts of unlike effect whose shares depend on the input."""
    spec = replace(adapter.spec, num_experts=2, own=1, mixer="instance", blend=1.0, anchors=1)
    tensors = {**renumber(adapter.tensors, 0), **{n: -3 * t for n, t in renumber(adapter.tensors, 1).items()}}
    return ClientModel(spec, tensors)
