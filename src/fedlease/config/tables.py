"""The table of tasks and the table of sources of rows: what other folders need to know of each, as plain data.

Each row names the module that does the work, which is imported when it is used. A package of someone else adds a row
through the entry point group ``fedlease.tasks`` or ``fedlease.sources``.
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
"""The content of a row beside its text: one label, any number of labels, a number, or a response. It decides which
reader of ``fedlease.data.reading`` is used."""
EVERY_KIND: tuple[RowKind, ...] = get_args(RowKind)
LABELLED: frozenset[RowKind] = frozenset({"labels", "label sets"})
"""Kinds of rows that have labels."""


@dataclass(frozen=True)
class ModelKind:
    """The class of models that a task trains.

    Attributes:
        auto: class of transformers that loads them.
        peft_type: PEFT's name for their use.
        pipeline: the model hub's name for it.
        head: whether every client has a head of its own on the body.
        writes: whether they continue texts: prompts are padded on the left, and the tokenizer needs an end token.
        problem_type: transformers' name for what the outputs of the head mean, for those who load the model; None is
            what it takes by itself.
        numbers: whether the head gives a number.
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
    """Facts about a task for the folders below ``tasks``.

    Attributes:
        path: ``module:class`` of the :class:`fedlease.tasks.base.Task`.
        rows: what it needs of a row.
        model: what it trains.
        default_model: takes the place of a preset's model that was chosen for another task; None leaves it.
        metrics: what ``metric`` may name, the task's own choice first; empty for a task that has one headline.
    """

    path: str
    rows: RowKind
    model: ModelKind
    default_model: str | None = None
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceFacts:
    """Facts about a source, which are known before it is read.

    Attributes:
        module: has ``load(settings, seed, rows) -> Federation``.
        rows: the kinds of rows that it gives.
        path: whether ``data.path`` is required, optional or not read.
        partitions: whether ``data.partition`` may skew labels.
        shares: whether ``data.share_rows`` is obeyed.
        labels: whether ``data.labels`` may state the labels.
        settings: a :class:`fedlease.config.sections.Section` of the source's own settings, all with defaults, which
            stand under ``data`` by its name, with ``_`` for ``-``; None without any.
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
    """Name -> facts of every task that can be used, those of installed packages included."""
    return with_installed(TASKS, TASK_GROUP)


def known_sources() -> dict[str, SourceFacts]:
    """Name -> facts of every source of rows that can be used, those of installed packages included."""
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
    """Validates a setting that names a row of a table, with the message of a closed list of choices.

    Attributes:
        known: gives the table.
        row: gives one row of it, or says in one sentence why the package that adds it cannot be used.
    """

    known: Callable[[], Collection[str]]
    row: Callable[[str], Any]

    def __call__(self, name: Any) -> Any:
        """The name, if the table has it."""
        try:
            if isinstance(name, str):
                self.row(name)
                return name
        except KeyError:
            pass
        *most, last = [repr(known) for known in self.known()]
        raise PydanticKnownError("literal_error", {"expected": " or ".join(filter(None, (", ".join(most), last)))})
