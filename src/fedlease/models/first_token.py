"""Computing the last layer for the first token only, in classifiers whose head reads only that token.

After the attention of the last layer, tokens do not interact, so the other tokens affect neither logits nor gradients.
Leaving them out only changes rounding, as matrix products of fewer rows round differently.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fedlease.config.settings import Settings
from fedlease.errors import ModelError

__all__ = ["first_token_alone", "with_first_token"]

READ_FIRST = ("bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "xlm-roberta")
"""Model types of transformers whose classifiers read the first token, and in whose layers every module after
``attention.output`` treats each token separately."""


def with_first_token(settings: Settings, model: Any, targets: Collection[str]) -> tuple[Settings, dict[str, str]]:
    """Resolves ``base.skip_unread``.

    Args:
        settings: of the run.
        model: the base.
        targets: paths of the modules that are adapted.

    Returns:
        The settings with true or false; and for ``auto``, the key -> the value and its reason.

    Raises:
        ModelError: the setting is true, but the head reads more than the first token, or a module after the last
            attention is adapted: its dropout and the counts of experts would miss tokens.
    """
    asked, train = settings.base.skip_unread, settings.train
    if asked is False:
        return settings, {}
    reason = _all_read(model, targets)
    if asked is True:
        if reason:
            raise ModelError(f"base.skip_unread: must be false or auto for {settings.model!r}: {reason}")
        return settings, {}
    if train.gradient_checkpointing:
        reason = "train.gradient_checkpointing recomputes all tokens"
    elif train.base_dropout:
        reason = "train.base_dropout draws for every token, and other numbers are more than rounding"
    because = reason or "the head reads the first token alone"
    base = settings.base.model_copy(update={"skip_unread": not reason})
    found = settings.model_copy(update={"base": base})
    return found, {"base.skip_unread": f"{'false' if reason else 'true'}, since {because}"}


def _all_read(model: Any, targets: Collection[str]) -> str:
    """The reason why the last layer needs all tokens; empty if the first one is enough."""
    config = model.config
    kind, classifies = config.model_type, type(model).__name__.endswith("ForSequenceClassification")
    if kind not in READ_FIRST or not classifies or config.is_decoder or config.chunk_size_feed_forward:
        return (
            f"of models only classifiers of the types {', '.join(READ_FIRST)} are known to read the first token alone, "
            f"and this is {type(model).__name__} of type {kind!r}"
        )
    layer = _last_layer(model)
    unread = {
        id(module) for part in (layer.attention.output, layer.intermediate, layer.output) for module in part.modules()
    }
    behind = sorted(path for path in targets if id(model.get_submodule(path)) in unread)
    return f"lora.target_modules names what follows the last attention: {behind}" if behind else ""


@contextmanager
def first_token_alone(model: Any) -> Iterator[None]:
    """Within the context, the model's last layer computes only the first token.

    :func:`with_first_token` must have allowed it, and ``output_hidden_states`` must not be set.
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
