"""The settings of rows."""

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from fedlease.config.choices import BadRows, GlueTask, Partition, ScoreRows, UnusableClients
from fedlease.config.sections import Fraction, Positive, Section
from fedlease.config.tables import OneOf, known_sources, source_facts
from fedlease.core.names import name_of

__all__ = ["DELIMITER_NAMES", "ColumnSettings", "DataSettings", "LimitSettings"]

DELIMITER_NAMES = {"\t": "tabs", ";": "';'", "|": "'|'"}
"""Delimiters as messages name them."""

NO_TEXT = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf-7", "mbcs", "oem"})
"""Encodings of Python in which no file is written."""


class ColumnSettings(Section):
    """The columns of your files."""

    text: str = "text"
    """The text, or the first text of a pair."""
    text_pair: str | None = None
    """The second text, which every file must then have; None takes a column called ``text_pair`` when there is one."""
    label: str = "label"
    """Label names or numbers; lists of them for ``task: multilabel``, numbers to predict for ``task: regression``."""
    labels: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Columns of 0 and 1, one for each label, in place of ``label``, for ``task: multilabel``."""
    prompt: str = "prompt"
    """The answer, for ``task: generation``; chats in ``messages`` and ``instruction`` with ``output`` also do."""
    response: str = "response"
    """The answer to ``prompt``."""
    client: str = "client"
    """The client, when ``data.path`` is one file."""
    split: str = "split"
    """``train``, ``valid`` or ``test``, when ``data.path`` is one file; else ``data.test_fraction`` is held out."""
    task: str = "task"
    """The task of a client's rows, one value per client, for per-task scores; may be absent."""

    @field_validator("labels", mode="before")
    @classmethod
    def _in_one_text(cls, names: Any) -> Any:
        """Reads names with commas between them, as a node's configuration has them."""
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @field_validator("labels")
    @classmethod
    def _different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuses a list of columns that states no labels."""
        if names is not None and (len(names) < 2 or len({*names}) < len(names)):
            raise PydanticCustomError("label_columns", "must be two columns or more, each once")
        return names


class LimitSettings(Section):
    """Limits of a file of rows; more is refused with file, line and size, before it fills the memory."""

    text_characters: Positive = 1_000_000
    """Characters of one text."""
    row_bytes: Positive = 16_000_000
    """Bytes of one row of JSON or one line of CSV, all columns together."""
    rows: Positive = 1_000_000
    """Rows of one file."""
    file_bytes: Positive = 1_000_000_000
    """Bytes of one file; of a compressed one (gz, Parquet), those that are unpacked."""
    columns: Positive = 1_000
    """Columns of one file."""
    labels: Positive = 1_000
    """Labels of one client."""
    clients: Positive = 10_000
    """Clients of a federation."""


class DataSettings(Section):
    """The source of rows, and how they are dealt to clients."""

    source: Annotated[str, BeforeValidator(OneOf(known_sources, source_facts))] = "folder"
    """``folder``: your files; ``memory``: what Python passes as ``data``; ``glue`` (classification) and ``flan``
    (generation): from the hub or from a folder of files; ``quickstart`` (classification); ``synthetic``."""
    path: Path | None = None
    """A federation folder ``DIR/<client>/{train,test}.*``, one file with a client column, or a folder of GLUE or FLAN
    files."""
    delimiter: str | None = None
    """One character between the cells of CSV, such as ``;``, or ``tab``; None guesses it for each file and says so.
    Files that end in ``.tsv`` have tabs."""
    encoding: str | None = None
    """The encoding of text files, such as ``cp1252``, ``latin-1`` or ``utf-16``; None takes UTF-8, or guesses it for
    each file of CSV that is not UTF-8, and says so. A byte order mark counts for more."""
    columns: ColumnSettings = ColumnSettings()
    """Names of your columns."""
    labels: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """Labels of all clients, or task -> labels, for files of your own: their heads have these outputs, whatever labels
    their train rows have. Without it a client has the labels of its train rows, or the ``columns.labels``; one of a
    single label learns nothing (classification)."""
    label_separator: Annotated[str, Field(min_length=1, max_length=10)] = ","
    """Stands between the labels of a row where they are one text, for ``task: multilabel``."""
    clients: UnusableClients = "require"
    """Clients whose rows cannot be used, or that have fewer than ``min_train_rows``: ``require`` stops before anything
    is trained and names them all, ``skip`` goes on without them and names them wherever the run is described."""
    bad_rows: BadRows = "refuse"
    """Rows of your own files that cannot be used: faulty JSON lines, too few cells, no text, no label, a value of the
    wrong type. ``refuse`` stops before anything is trained and names them, ``drop`` goes on without them, and says how
    many of which client and why wherever the run is described."""
    without: tuple[str, ...] = ()
    """Clients that take no part although they have rows; ``fedlease resume DIR --to ROUND --without CLIENT`` adds to
    them."""
    min_train_rows: Positive = 1
    """Train rows that a client needs, after rows for choices are set apart. One without test rows trains and is scored
    on none."""
    limits: LimitSettings = LimitSettings()
    """Limits of files."""
    tasks: Annotated[tuple[GlueTask, ...], Field(min_length=1)] = ("sst2", "qnli", "mrpc", "qqp")
    """GLUE tasks, for ``source: glue``."""
    categories: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """FLAN categories, for ``source: flan``; None takes all that the folder has, or the paper's four from the hub:
    text_formatting, structure_to_text, sentiment, common_sense."""
    partition: Partition = "natural"
    """``natural``: clients as they are (glue: ``clients_per_task`` each); ``dirichlet``: label skew over clients of all
    tasks pooled, one label list; ``task-and-label``: ``clients_per_task`` each, labels skewed within a task. The last
    two also deal one file of your own without a client column; they need labels, so generation is ``natural``."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Dirichlet concentration; smaller is more skewed."""
    clients_per_task: Positive = 4
    """Clients per task, for ``glue``, ``flan`` (per category), ``quickstart`` and ``synthetic``."""
    train_rows: Positive | None = None
    """Train rows per client. For your own files and under label skew a cap, elsewhere an exact number whose absence is
    an error unless ``share_rows``. None takes all; ``quickstart`` then takes 150 and ``synthetic`` 32."""
    test_rows: Positive | None = None
    """Test rows per client, as ``train_rows``; without a number ``quickstart`` takes 100 and ``synthetic`` 16."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a client's rows held out for test if the data names no test rows."""
    valid_fraction: Fraction = 0.0
    """Share of a client's train rows held out for choices such as the learning rate."""
    score_rows: ScoreRows = "test"
    """The rows that are scored; ``valid`` for choices such as the learning rate: test rows are then not looked at."""
    share_rows: bool = False
    """Whether clients of ``glue`` or ``flan`` may hold the same rows when there are not enough; test rows stay apart
    from train."""
    max_tokens: Annotated[int, Field(ge=4, le=32768)] = 128
    """Longer inputs are cut on the right and counted."""

    @field_validator("label_separator")
    @classmethod
    def _visible(cls, value: str) -> str:
        """Keeps labels of several words whole, and lists in JSON, which begin with a bracket."""
        if not value.strip() or "[" in value:
            raise PydanticCustomError("separator", "must not be spaces alone, nor hold [")
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _named(cls, path: Any) -> Any:
        """Keeps an empty path from being the folder one stands in."""
        if path == "":
            raise PydanticCustomError("empty_path", "must not be empty")
        return path

    @field_validator("delimiter", mode="before")
    @classmethod
    def _one_mark(cls, value: Any) -> Any:
        """Reads a tab by its name, which a command line cannot hold."""
        mark = "\t" if value in ("tab", "\\t") else value
        if mark is not None and not (
            isinstance(mark, str) and len(mark) == 1 and (mark == "\t" or mark.isprintable()) and not mark.isalnum()
        ):
            raise PydanticCustomError("delimiter", "must be one character that is no letter or digit, or 'tab'")
        if mark == '"':
            raise PydanticCustomError("delimiter", "must not be the quote around cells")
        return mark

    @field_validator("encoding", mode="before")
    @classmethod
    def _known_encoding(cls, value: Any) -> Any:
        """Gives the name of an encoding as Python writes it."""
        if value is None:
            return None
        try:
            known = codecs.lookup(value).name if isinstance(value, str) else ""
            readable = known not in NO_TEXT and "a,\n".encode(known).decode(known) == "a,\n"
        except (LookupError, ValueError):
            known, readable = "", False
        if not readable:
            raise PydanticCustomError("encoding", "must be an encoding of text, such as utf-8, cp1252 or utf-16")
        return known

    @field_validator("labels", mode="before")
    @classmethod
    def _label_lists(cls, value: Any) -> Any:
        """Reads names as rows have them, and says in one sentence what is wrong with a list."""
        if value is None:
            return None
        if isinstance(value, Mapping):
            return {str(task): _label_list(names, f"the labels of task {task!r}") for task, names in value.items()}
        return _label_list(value, "it")


def _label_list(names: Any, what: str) -> tuple[str, ...]:
    def fault(rule: str) -> PydanticCustomError:
        return PydanticCustomError("label_list", f"must be a list of labels, or task -> list; {what} {rule}")

    if not isinstance(names, list | tuple):
        raise fault("must be a list")
    # Labels of rows are read alike in files that distinguish numbers from texts.
    read = [name for value in names if (name := name_of(value, typed=True)) is not None]
    if len(read) < len(names):
        raise fault("must hold names or numbers")
    if len(set(read)) < len(read):
        twice = next(name for name in read if read.count(name) > 1)
        raise fault(f"must hold {twice!r} once".replace("{", "{{").replace("}", "}}"))
    if len(read) < 2:
        raise fault("must hold at least two")
    return tuple(read)
