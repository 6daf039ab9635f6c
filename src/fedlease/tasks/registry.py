"""What a client optimises and how it is scored."""

from typing import TYPE_CHECKING

from fedlease.tasks.base import Task
from fedlease.tasks.classification import Classification
from fedlease.tasks.generation import Generation

if TYPE_CHECKING:
    from fedlease.config.settings import Settings

__all__ = ["make_task"]


def make_task(settings: "Settings") -> Task:
    """The task of a run with its parameters."""
    if settings.task == "classification":
        return Classification(settings.data.max_tokens)
    given = settings.generation
    return Generation(
        max_tokens=settings.data.max_tokens,
        max_new_tokens=given.max_new_tokens,
        stop=given.stop,
        template=given.template,
        batch_size=given.batch_size,
        num_samples=given.samples,
    )
