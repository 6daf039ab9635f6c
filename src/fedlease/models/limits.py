"""Lengths of rows and answers that fit a base model."""

from fedlease.config.precedence import is_stated
from fedlease.config.settings import Settings
from fedlease.config.tables import task_facts
from fedlease.errors import ConfigError

__all__ = ["fitted_lengths"]


def fitted_lengths(settings: Settings, limit: int) -> tuple[Settings, tuple[str, ...]]:
    """The settings with lengths that a model can read, and notes about presets and defaults that were lowered.

    Raises:
        ConfigError: the user's own lengths exceed what the model can read.
    """
    rows, answers = settings.data.max_tokens, settings.generation.max_new_tokens
    writes = task_facts(settings.task).model.writes
    new = answers if writes else 0
    if rows + new <= limit:
        return settings, ()
    longest = rows if is_stated(settings, "data.max_tokens") else min(rows, max(limit - new, limit // 2))
    new = new if is_stated(settings, "generation.max_new_tokens") else min(new, max(limit - longest, 1))
    if longest + new > limit:
        more = f" and generation.max_new_tokens = {answers}" if writes else ""
        raise ConfigError(
            f"data.max_tokens: {rows}{more} are more than the {limit} tokens that model {settings.model!r} can read"
        )
    notes, reason = [], f"since model {settings.model!r} reads {limit} tokens"
    data, generation = settings.data, settings.generation
    if longest != rows:
        data = data.model_copy(update={"max_tokens": longest})
        notes.append(f"data.max_tokens: {longest} instead of {rows}, {reason}")
    if new not in (0, answers):
        generation = generation.model_copy(update={"max_new_tokens": new})
        notes.append(f"generation.max_new_tokens: {new} instead of {answers}, {reason}")
    return settings.model_copy(update={"data": data, "generation": generation}), tuple(notes)
