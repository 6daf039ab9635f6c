"""The tables of tasks and of sources of rows, as plain data for other folders.

Each row names the module that does the work, which is imported when it is used. Other packages add rows through the
entry point groups ``fedlease.tasks`` and ``fedlease.sources``.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic_core import PydanticKnownError

from fedlease.core.plugins import row_of, with_installed

__all__ = [
    "CAUSAL",
    "CLASSIFIER",
    "LABELLED",
    "MULTI_LABEL",
    "REGRESSOR",
    "SOURCES",
    "SOURCE_GROUP",
    "TASKS",
    "TASK_GROUP",
    "ModelKind",
    "OneOf",
    "RowKind",
    "SourceFacts",
    "TaskFacts",
    "known_sources",
    "known_tasks",
    "source_facts",
    "sources_with",
    "task_facts",
    "tasks_reading",
]

RowKind = Literal["labels", "label sets", "values", "responses"]
"""The content of a row besides its text: one label, any number of labels, a number, or a response. It determines the
reader in ``fedlease.data.reading``."""
EVERY_KIND: tuple[RowKind, ...] = get_args(RowKind)
LABELLED: frozenset[RowKind] = frozenset({"labels", "label sets"})
"""Kinds of rows that have labels."""


@dataclass(frozen=True)
class ModelKind:
    """The class of models that a task trains.

    Attributes:
        auto: class of transformers that loads the models.
        peft_type: PEFT's name of the model's task.
        pipeline: the model hub's name of the model's task.
        head: whether every client has its own head.
        writes: whether the models generate text: prompts are padded on the left, and the tokenizer needs an end token.
        problem_type: transformers' name for the meaning of the head's outputs; None is its default.
        numbers: whether the head outputs a number.
    """

    auto: str
    peft_type: str
    pipeline: str
    head: bool
    writes: bool
    problem_type: str | None = None
    numbers: bool = False


CLASSIFIER = ModelKind("AutoModelForSequenceClassification", "SEQ_CLS", "text-classification", head=True, writes=False)
MULTI_LABEL = replace(CLASSIFIER, problem_type="multi_label_classification")
REGRESSOR = replace(CLASSIFIER, problem_type="regression", numbers=True)
CAUSAL = ModelKind("AutoModelForCausalLM", "CAUSAL_LM", "text-generation", head=False, writes=True)


@dataclass(frozen=True)
class TaskFacts:
    """Facts about a task, for folders that must not import ``tasks``.

    Attributes:
        path: ``module:class`` of the :class:`fedlease.tasks.base.Task`.
        rows: kind of rows that it needs.
        model: kind of models that it trains.
        default_model: replaces a preset's model for another task; None keeps it.
        metrics: values allowed for ``metric``, the default first; () for a task with a single headline metric.
    """

    path: str
    rows: RowKind
    model: ModelKind
    default_model: str | None = None
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceFacts:
    """Facts about a source of rows, known before it is read.

    Attributes:
        module: module with ``load(settings, seed, rows) -> Federation``.
        rows: the kinds of rows that it provides.
        path: whether ``data.path`` is required, optional or not used.
        partitions: whether it supports ``data.partition``.
        shares: whether it supports ``data.share_rows``.
        labels: whether it supports ``data.labels``.
        settings: class of the source's own settings, a :class:`fedlease.config.sections.Section` with defaults; its
            section within ``data`` has the source's name, with ``_`` for ``-``. None without settings.
    """

    module: str
    rows: tuple[RowKind, ...]
    path: Literal["required", "optional", "not read"] = "not read"
    partitions: bool = False
    shares: bool = False
    labels: bool = False
    settings: type[Any] | None = None


TASKS: dict[str, TaskFacts] = {
    "classification": TaskFacts(
        "fedlease.tasks.classification:Classification", "labels", CLASSIFIER, metrics=("accuracy", "macro_f1", "mcc")
    ),
    "multilabel": TaskFacts(
        "fedlease.tasks.multilabel:Multilabel",
        "label sets",
        MULTI_LABEL,
        metrics=("micro_f1", "macro_f1", "subset_accuracy"),
    ),
    "regression": TaskFacts(
        "fedlease.tasks.regression:Regression", "values", REGRESSOR, metrics=("spearman", "pearson")
    ),
    "generation": TaskFacts(
        "fedlease.tasks.generation:Generation",
        "responses",
        CAUSAL,
        default_model="smollm2",
        metrics=("rouge1", "rougeL", "exact_match"),
    ),
}
SOURCES: dict[str, SourceFacts] = {
    "folder": SourceFacts("fedlease.data.sources.folder", EVERY_KIND, "required", partitions=True, labels=True),
    "memory": SourceFacts("fedlease.data.sources.memory", EVERY_KIND, partitions=True, labels=True),
    "glue": SourceFacts("fedlease.data.sources.glue", ("labels",), "optional", partitions=True, shares=True),
    "flan": SourceFacts("fedlease.data.sources.flan", ("responses",), "optional", shares=True),
    "quickstart": SourceFacts("fedlease.data.sources.quickstart", ("labels",)),
    "synthetic": SourceFacts("fedlease.data.sources.synthetic", EVERY_KIND),
}


TASK_GROUP, SOURCE_GROUP = "fedlease.tasks", "fedlease.sources"


def known_tasks() -> dict[str, TaskFacts]:
    """Name -> facts, for every usable task, including those of installed packages."""
    return with_installed(TASKS, TASK_GROUP)


def known_sources() -> dict[str, SourceFacts]:
    """Name -> facts, for every usable source of rows, including those of installed packages."""
    return with_installed(SOURCES, SOURCE_GROUP)


def task_facts(task: str) -> TaskFacts:
    """The row of a task.

    Raises:
        KeyError: no such task.
        ConfigError: the package that adds it cannot be used.
    """
    return row_of(TASKS, TASK_GROUP, task)


def source_facts(source: str) -> SourceFacts:
    """The row of a source; raises as :func:`task_facts`."""
    return row_of(SOURCES, SOURCE_GROUP, source)


def tasks_reading(rows: RowKind) -> list[str]:
    """Names of the tasks that need such rows, for messages."""
    return [name for name, facts in known_tasks().items() if facts.rows == rows]


def sources_with(rows: RowKind) -> list[str]:
    """Names of the sources that give such rows, for messages."""
    return [name for name, facts in known_sources().items() if rows in facts.rows]


@dataclass(frozen=True)
class OneOf:
    """Validates a setting that names a row of a table, with the same message as for a fixed list of choices.

    Attributes:
        known: returns the table.
        row: returns one row of it, or raises a ``ConfigError`` if the package that adds it cannot be used.
    """

    known: Callable[[], Collection[str]]
    row: Callable[[str], Any]

    def __call__(self, name: Any) -> Any:
        """Returns the name if the table has it."""
        try:
            if isinstance(name, str):
                self.row(name)
                return name
        except KeyError:
            pass
        *most, last = [repr(known) for known in self.known()]
        raise PydanticKnownError("literal_error", {"expected": " or ".join(filter(None, (", ".join(most), last)))})
