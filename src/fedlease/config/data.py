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
"""Python's encodings that are not used for files."""


class ColumnSettings(Section):
    """The columns of your files."""

    text: str = "text"
    """The text, or the first text of a pair."""
    text_pair: str | None = None
    """The second text, which every file must then have; None uses a column named ``text_pair`` if there is one."""
    label: str = "label"
    """Label names or numbers; lists of them for ``task: multilabel``, numbers to predict for ``task: regression``."""
    labels: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Columns of 0 and 1, one per label, instead of ``label``, for ``task: multilabel``."""
    prompt: str = "prompt"
    """The prompt, for ``task: generation``; chats in ``messages``, or ``instruction`` with ``output``, also work."""
    response: str = "response"
    """The answer to ``prompt``."""
    client: str = "client"
    """The client, if ``data.path`` is one file."""
    split: str = "split"
    """``train``, ``valid`` or ``test``, if ``data.path`` is one file; else ``data.test_fraction`` is held out."""
    task: str = "task"
    """The task of a client's rows, one value per client, for scores per task; optional."""

    @field_validator("labels", mode="before")
    @classmethod
    def _in_one_text(cls, names: Any) -> Any:
        """Reads names with commas between them, as a node's configuration has them."""
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @field_validator("labels")
    @classmethod
    def _different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuses fewer than two columns, or the same column twice."""
        if names is not None and (len(names) < 2 or len({*names}) < len(names)):
            raise PydanticCustomError("label_columns", "must be two columns or more, each once")
        return names


class LimitSettings(Section):
    """Limits of files with rows; larger ones are refused with file, line and size, before they fill the memory."""

    text_characters: Positive = 1_000_000
    """Most characters of a text."""
    row_bytes: Positive = 16_000_000
    """Most bytes of a row of JSON or a line of CSV, all columns together."""
    rows: Positive = 1_000_000
    """Most rows of a file."""
    file_bytes: Positive = 1_000_000_000
    """Most bytes of a file, after decompression (gz, Parquet)."""
    columns: Positive = 1_000
    """Most columns of a file."""
    labels: Positive = 1_000
    """Most labels of a client."""
    clients: Positive = 10_000
    """Most clients of a federation."""


class DataSettings(Section):
    """The source of rows, and their distribution over clients."""

    source: Annotated[str, BeforeValidator(OneOf(known_sources, source_facts))] = "folder"
    """``folder``: your files; ``memory``: what Python passes as ``data``; ``glue`` (classification) and ``flan``
    (generation): from the hub or from a folder of files; ``quickstart`` (classification); ``synthetic``."""
    path: Path | None = None
    """A federation folder ``DIR/<client>/{train,test}.*``, one file with a client column, or a folder of GLUE or FLAN
    files."""
    delimiter: str | None = None
    """The character between cells of CSV, such as ``;``, or ``tab``; None guesses it for each file and prints a note.
    Files that end in ``.tsv`` have tabs."""
    encoding: str | None = None
    """The encoding of text files, such as ``cp1252``, ``latin-1`` or ``utf-16``; None is UTF-8, or a guess with a note
    for each CSV file that is not UTF-8. A byte order mark in a file takes precedence."""
    columns: ColumnSettings = ColumnSettings()
    """Names of your columns."""
    labels: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """Labels of all clients, or task -> labels, for your own files: every head has an output for each of them, whatever
    labels the client's train rows have. None: a client has the labels of its train rows, or ``columns.labels``; for
    classification, a client with a single label then learns nothing."""
    label_separator: Annotated[str, Field(min_length=1, max_length=10)] = ","
    """Separator of a row's labels if they are one text, for ``task: multilabel``."""
    clients: UnusableClients = "require"
    """Treatment of clients with unusable rows, or fewer than ``min_train_rows``: ``require`` names them all and stops
    before training; ``skip`` runs without them and names them in every description of the run."""
    bad_rows: BadRows = "refuse"
    """Treatment of unusable rows in your own files: faulty JSON lines, too few cells, no text, no label, a value of the
    wrong type. ``refuse`` names them and stops before training; ``drop`` runs without them and reports the number and
    reasons per client in every description of the run."""
    without: tuple[str, ...] = ()
    """Clients that take no part although they have rows; ``fedlease resume DIR --to ROUND --without CLIENT`` adds to
    them."""
    min_train_rows: Positive = 1
    """Fewest train rows of a client, without validation rows. A client without test rows trains and has no score."""
    limits: LimitSettings = LimitSettings()
    """Limits of files."""
    tasks: Annotated[tuple[GlueTask, ...], Field(min_length=1)] = ("sst2", "qnli", "mrpc", "qqp")
    """GLUE tasks, for ``source: glue``."""
    categories: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """FLAN categories, for ``source: flan``; None takes all in the folder, or the paper's four from the hub:
    text_formatting, structure_to_text, sentiment, common_sense."""
    partition: Partition = "natural"
    """``natural``: clients as they are (glue: ``clients_per_task`` each); ``dirichlet``: label skew over clients of all
    tasks pooled, one label list; ``task-and-label``: ``clients_per_task`` each, labels skewed within a task. The last
    two also deal one file of your own without a client column; they need labels, so generation is ``natural``."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Concentration of the Dirichlet distribution; smaller values give more skew."""
    clients_per_task: Positive = 4
    """Number of clients per task, for ``glue``, ``flan`` (per category), ``quickstart`` and ``synthetic``."""
    train_rows: Positive | None = None
    """Train rows per client: at most, for your own files and under label skew; otherwise exactly, and too few rows are
    an error unless ``share_rows``. None takes all rows, but 150 for ``quickstart`` and 32 for ``synthetic``."""
    test_rows: Positive | None = None
    """Test rows per client, like ``train_rows``. None takes all rows, but 100 for ``quickstart`` and 16 for
    ``synthetic``."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a client's rows that is held out for testing if the data has no test rows."""
    valid_fraction: Fraction = 0.0
    """Share of a client's train rows that is held out as validation rows."""
    score_rows: ScoreRows = "test"
    """The rows that are scored; ``valid`` for choices such as the learning rate, without looking at test rows."""
    share_rows: bool = False
    """Whether clients of ``glue`` or ``flan`` may have the same rows if there are not enough; test rows are never train
    rows."""
    max_tokens: Annotated[int, Field(ge=4, le=32768)] = 128
    """Most tokens of an input; longer inputs are cut on the right and counted."""

    @field_validator("label_separator")
    @classmethod
    def _visible(cls, value: str) -> str:
        """Refuses spaces, which would split labels of several words, and brackets, with which JSON lists start."""
        if not value.strip() or "[" in value:
            raise PydanticCustomError("separator", "must not be spaces alone, nor hold [")
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _named(cls, path: Any) -> Any:
        """Refuses an empty path, which would mean the current folder."""
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
        """Normalises the name of an encoding."""
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
        """Reads label names as in rows, and reports a faulty list in one sentence."""
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
