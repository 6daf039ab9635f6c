"""Reads JSON and JSON Lines from untrusted sources: limits size, depth and number of values, and checks types."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedlease.core.wording import listed, printable
from fedlease.data.reading.examples import client_id_fault
from fedlease.errors import RunFolderError
from fedlease.files import read_file

__all__ = [
    "MOST_BYTES",
    "MOST_DEPTH",
    "MOST_EXPERTS",
    "MOST_LINES",
    "MOST_VALUES",
    "ClientName",
    "Content",
    "Count",
    "Expert",
    "Finite",
    "Name",
    "checked",
    "parse_json",
    "read_lines",
    "read_object",
]

MOST_BYTES = 128 * 2**20
"""Largest size of a JSON file in bytes; the distances of 2,000 clients take 100 MB."""
MOST_VALUES = 10_000_000
"""Largest number of values in a JSON file, since a value of two characters takes far more memory."""
MOST_DEPTH = 32
"""Largest depth of nested lists and objects."""
MOST_LINES = 100_000
"""Largest number of lines of a JSON Lines file, such as steps of a method."""
FEW = 3
"""Number of faults of a file that a message lists."""

MOST_EXPERTS = 10_000
MOST_NAME = 2_000

M = TypeVar("M", bound=BaseModel)


def _client(name: str) -> str:
    if fault := client_id_fault(name):
        raise ValueError(f"a client's id {fault}")
    return name


ClientName = Annotated[str, AfterValidator(_client)]
Name = Annotated[str, Field(max_length=MOST_NAME)]
"""The name of a client that takes no part: an unchecked claim of a rejected node, shown and never used for a file."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Expert = Annotated[int, Field(ge=0, lt=MOST_EXPERTS)]
MeanAndDeviation = Annotated[list[Finite], Field(min_length=2, max_length=2)]


class Content(BaseModel):
    """The part of a JSON object that is read; the object may have further keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    @property
    def content(self) -> dict[str, Any]:
        """Its JSON form: the keys that were set or read, including further ones."""
        return self.model_dump(exclude_unset=True)


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        RunFolderError: the file is missing, is not a regular file, exceeds a limit, or has no JSON object.
    """
    try:
        return parse_json(read_file(path, MOST_BYTES), path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing or damaged: there is no such file") from error


def parse_json(blob: bytes, where: object) -> dict[str, Any]:
    """Parses the JSON object in a text.

    Args:
        blob: the text in UTF-8.
        where: names the text in messages.

    Raises:
        RunFolderError: it exceeds a limit, or is no JSON object.
    """
    if sum(map(blob.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise RunFolderError(f"{where} is damaged: it has more than {MOST_VALUES:,} values")
    try:
        content = json.loads(blob.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{where} is damaged: {type(error).__name__} {printable(str(error))}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{where} is damaged: expected a JSON object, received a {type(content).__name__}")
    level: list[Any] = [content]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _within(outer)]
        if not level:
            return content
    raise RunFolderError(f"{where} is damaged: lists and objects are nested more than {MOST_DEPTH} deep")


def read_lines(path: Path) -> list[bytes]:
    """Reads the lines of a file without their line ends; the last line of a complete file is empty.

    Raises:
        RunFolderError: the file is not a regular file, or exceeds a limit.
    """
    try:
        blob = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        return []
    if blob.count(b"\n") > MOST_LINES:
        raise RunFolderError(f"{path} is damaged: it has more than {MOST_LINES:,} lines")
    return blob.split(b"\n")


def checked(content: Any, kind: type[M] | TypeAdapter[Any], where: object) -> Any:
    """Converts JSON content to a type.

    Args:
        content: the parsed JSON.
        kind: the type that it must have.
        where: names the content in messages.

    Raises:
        RunFolderError: it does not have the type; the message has the first faults with their places.
    """
    try:
        return kind.validate_python(content) if isinstance(kind, TypeAdapter) else kind.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        found = listed([f"{_place(fault['loc'])} {_rule(fault)}" for fault in faults], FEW, separator="; ")
        raise RunFolderError(f"{where} is damaged: {printable(found)}") from error
    except RecursionError as error:
        raise RunFolderError(f"{where} is damaged: it is too deep") from error


def _within(value: Any) -> Iterator[Any]:
    for inner in value.values() if isinstance(value, Mapping) else value:
        if isinstance(inner, dict | list):
            yield inner


def _place(path: tuple[int | str, ...]) -> str:
    shown = ".".join(str(part) if len(str(part)) <= 40 else f"{str(part)[:40]}..." for part in path[:6])
    return shown or "its content"


def _rule(fault: Any) -> str:
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "value_error":
        return f": {fault['msg'].removeprefix('Value error, ')[:200]}"
    rule = fault["msg"].replace("Input should be", "must be").replace("dictionary", "object")
    rule = re.sub(r" or instance of \w+", "", rule)
    return f"{rule[:1].lower()}{rule[1:200]}, received {type(fault['input']).__name__}"
