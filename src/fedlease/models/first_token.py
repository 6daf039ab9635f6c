"""The last layer of a classifier that reads the first token alone: it is computed for that token alone.

Behind the attention of the last layer tokens no longer meet, so that what the others become there reaches neither
logits nor gradients. Leaving it out changes nothing but rounding, since products of fewer rows round otherwise.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fedlease.errors import ModelError

__all__ = ["check_first_token", "first_token_alone"]

READ_FIRST = ("bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "xlm-roberta")
"""Types of models of transformers whose classifiers read the first token, and whose layers end, after
``attention.output``, with modules that look at every token by itself."""


def check_first_token(model: Any, name: str, targets: Collection[str]) -> None:
    """Refuses a model of which nothing may be left out.

    Args:
        model: the base.
        name: its name in the settings.
        targets: paths of the modules that are adapted.

    Raises:
        ModelError: its head reads more than the first token, or an adapter behind the last attention would miss
            tokens: its dropout draws for all, and experts are counted over all.
    """
    config = model.config
    kind, classifies = config.model_type, type(model).__name__.endswith("ForSequenceClassification")
    if kind not in READ_FIRST or not classifies or config.is_decoder or config.chunk_size_feed_forward:
        raise ModelError(
            f"base.skip_unread: must be false for {name!r}, a model of type {kind!r}: only classifiers of the types "
            f"{', '.join(READ_FIRST)} read the first token alone"
        )
    layer = _last_layer(model)
    unread = {
        id(module) for part in (layer.attention.output, layer.intermediate, layer.output) for module in part.modules()
    }
    if behind := sorted(path for path in targets if id(model.get_submodule(path)) in unread):
        raise ModelError(
            f"base.skip_unread: must be false where lora.target_modules names what follows the last attention: {behind}"
        )


@contextmanager
def first_token_alone(model: Any) -> Iterator[None]:
    """While open, a model that :func:`check_first_token` has passed computes only what its head reads.

    Its hidden states must not be asked for.
    """
    handle = _last_layer(model).attention.output.register_forward_pre_hook(_first)
    try:
        yield
    finally:
        handle.remove()


def _last_layer(model: Any) -> Any:
    return getattr(model, model.base_model_prefix).encoder.layer[-1]


def _first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(b, tokens, hidden) -> (b, 1, hidden), of all arguments."""
    return tuple(hidden[:, :1] for hidden in args)
