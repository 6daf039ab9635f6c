"""Tasks by name; :data:`fedlease.config.tables.TASKS` is their table."""

import importlib
from typing import Any

from fedlease.config.settings import Settings
from fedlease.config.tables import known_tasks, task_facts
from fedlease.tasks.base import Task

__all__ = ["make_task", "task_class", "task_classes"]


def task_class(name: str) -> Any:
    """Imports the class of a task, a :class:`fedlease.tasks.base.Task`.

    Raises:
        KeyError: there is no such task.
    """
    module, _, cls = task_facts(name).path.partition(":")
    return getattr(importlib.import_module(module), cls)


def task_classes() -> list[Any]:
    """The classes of all tasks, in the order of their table."""
    return [task_class(name) for name in known_tasks()]


def make_task(settings: Settings) -> Task:
    """The task of a run with its parameters."""
    task: Task = task_class(settings.task).of(settings)
    return task
