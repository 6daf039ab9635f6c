"""Texts that a model writes, and where they end."""

from collections.abc import Callable, Sequence
from typing import Any

from fedlease.tasks.base import Model, StackedClients
from fedlease.tasks.encoded import Encoded, EncodedPrompts
from fedlease.tasks.prompts import streamer, until

__all__ = ["write_batch"]


def write_batch(
    model: Model | StackedClients,
    max_new_tokens: int,
    stop: Sequence[str],
    rows: Encoded,
    indices: Sequence[int],
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """Answers to some prompts, greedy, without the end token or the stop text that ends them.

    Args:
        model: scored, with its dropout off.
        max_new_tokens: of the longest answer.
        stop: texts that end an answer.
        rows: prompts.
        indices: of the rows that are answered together.
        on_text: receives the answer to a single prompt piece by piece, before a stop text is cut off.
    """
    assert isinstance(rows, EncodedPrompts)
    tokenizer, inputs = rows.tokenizer, rows.questions(indices, model.device)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
    options["pad_token_id"] = tokenizer.pad_token_id
    if stop:
        options |= {"stop_strings": list(stop), "tokenizer": tokenizer}
    if on_text is not None:
        options["streamer"] = streamer(tokenizer, on_text)
    tokens = model.generate(inputs, **options)
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [until(text, stop).strip() for text in texts]
