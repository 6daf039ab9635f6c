"""How long rows and answers may be for a base model to read them."""

from fedlease.config.precedence import is_stated
from fedlease.config.settings import Settings
from fedlease.config.tables import task_facts
from fedlease.errors import ConfigError

__all__ = ["fitted_lengths"]


def fitted_lengths(settings: Settings, limit: int) -> tuple[Settings, tuple[str, ...]]:
    """The settings with lengths that the model can read, and a note where a preset's or a default gave way.

    Args:
        settings: the run's.
        limit: tokens that the model can read.

    Raises:
        ConfigError: the lengths that the user gives are more than the model can read.
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
    groups, notes = {}, []
    for group, name, before, now in (
        ("data", "max_tokens", rows, longest),
        ("generation", "max_new_tokens", answers, new),
    ):
        if now not in (0, before):
            groups[group] = getattr(settings, group).model_copy(update={name: now})
            reason = f"model {settings.model!r} reads {limit} tokens"
            notes.append(f"{group}.{name}: {now} in the place of {before}, since {reason}")
    return settings.model_copy(update=groups), tuple(notes)
