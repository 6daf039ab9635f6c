"""Encodings and CSV delimiters of text files, which settings state or which are guessed."""

import codecs
import csv
import io
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fedlease.config.data import DELIMITER_NAMES, DataSettings
from fedlease.core.wording import listed
from fedlease.data.reading.rows import Gathered, Readable, Table

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["GUESSED", "Form", "delimiter_of", "guess_delimiter", "guess_encoding", "guess_notes", "in_utf8"]

DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that can be guessed; the first of equally good ones is taken."""

WESTERN = "cp1252"
HEAD = 65_536
"""Number of bytes from which a delimiter is guessed, and that are decoded at a time."""

APART = 3
"""Largest number of files of one folder that a note names."""

LOOKED_AT = 50
"""Number of rows from which a delimiter is guessed."""

FOREIGN = 0.3
"""Share of letters outside ASCII above which a text is in no Western European language."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8 = ("utf-8", "ascii")
_BROKEN = re.compile("[\udc80-\udcff]")
_OUTSIDE = re.compile("[^\x00-\x7f\udc80-\udcff]")
_LETTERS = string.ascii_letters.encode()


@dataclass(frozen=True)
class Form:
    """Delimiter and encoding of text files; None is guessed for each file.

    Attributes:
        delimiter: one character between the cells of CSV; files that end in ``.tsv`` have tabs.
        encoding: Python's name of the encoding; a byte order mark in a file overrides it.
    """

    delimiter: str | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, settings: DataSettings) -> "Form":
        """The delimiter and encoding that settings state."""
        return cls(settings.delimiter, settings.encoding)


GUESSED = Form()
"""The form of which delimiter and encoding are guessed."""


def in_utf8(file: Readable, rows: Gathered, form: Form, *, guess: bool) -> Readable:
    """The content of a file in UTF-8, without a byte order mark, from its beginning.

    Args:
        file: a seekable file at its beginning.
        rows: receives a note of what was guessed.
        form: states the encoding, or None.
        guess: whether to guess an encoding that is not stated; otherwise it is UTF-8, as JSON's standard requires.

    Raises:
        StoppedError: the encoding cannot be guessed; the reason is among the faults.
    """
    start = file.read(4)
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), form.encoding)
    if encoding is None and guess:
        encoding = guess_encoding(file, rows.limits.file_bytes)
        if encoding is None:
            example = "such as cp1251, gb18030 or shift_jis"
            rows.stop_file(f"is not UTF-8, and no other encoding fits: set data.encoding, {example}", "encoding")
        if encoding != "utf-8":
            rows.guessed.append(f"not UTF-8, so read as {encoding} (data.encoding states another)")
    encoding = encoding or "utf-8"
    file.seek(0)
    if encoding == "utf-8-sig":
        file.seek(len(codecs.BOM_UTF8))
    elif encoding not in _UTF8:
        rows.encoding = encoding
        return io.BufferedReader(_Recoded(file, encoding))
    return file


def guess_encoding(file: Readable, most: int) -> str | None:
    """Guesses whether a file is UTF-8, UTF-16 without a byte order mark, or Windows-1252; None if it is none of them.

    At most ``most`` bytes are read, from the beginning.
    """
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    read = broken = whole = letters = 0
    undefined = False
    while read < most and (chunk := file.read(HEAD)):
        if not read and (wide := _wide(chunk)):
            return wide
        read += len(chunk)
        text = decoder.decode(chunk)
        letters += len(chunk) - len(chunk.translate(None, _LETTERS))
        if not text.isascii():
            found = _BROKEN.findall(text)
            broken, whole = broken + len(found), whole + len(_OUTSIDE.findall(text))
            undefined = undefined or any(byte in "\udc81\udc8d\udc8f\udc90\udc9d" for byte in found)
    broken += len(decoder.decode(b"", final=True))
    # a damaged UTF-8 file still has more valid than invalid characters outside ASCII
    if broken <= whole:
        return "utf-8"
    return None if undefined or whole > 0 or broken > FOREIGN * (letters + broken) else WESTERN


def _wide(head: bytes) -> str | None:
    """UTF-16 with its byte order if every other byte is NUL, as in mostly ASCII text; None for other encodings."""
    half = len(head) // 2
    for order, zeros in (("utf-16-be", head[0::2]), ("utf-16-le", head[1::2])):
        if half and zeros.count(0) > 0.8 * half:
            return order
    return None


def guess_delimiter(head: str) -> str:
    """The delimiter with which most rows are as wide as the header; of equally good ones, that of the widest header.

    ``head`` is the beginning of a file; its last line may be cut. The guess for a file of one column is a comma.
    """
    fits = {mark: _fit(head, mark) for mark in DELIMITERS}
    if fits[","] >= (1.0, 2):
        return ","
    best = max(DELIMITERS, key=lambda mark: fits[mark])
    return best if fits[best] > (0.0, 1) else ","


def _fit(head: str, mark: str) -> tuple[float, int]:
    """The share of rows that are as wide as the header, and the width of the header in cells."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark)
    try:
        header, *below = list(islice(filter(None, reader), LOOKED_AT))
    except (ValueError, csv.Error):  # no row, or a cell longer than the csv module's limit
        return 0.0, 1
    if len(below) > 1 and len(below) < LOOKED_AT - 1:
        below = below[:-1]
    if len(header) == 1:
        return 0.0, 1
    return sum(len(cells) == len(header) for cells in below) / len(below) if below else 1.0, len(header)


def delimiter_of(file: Readable, rows: Gathered, form: Form) -> str:
    """The stated or guessed delimiter of a CSV file in UTF-8; leaves the file at its position."""
    if form.delimiter is not None:
        return form.delimiter
    begin = file.tell()
    mark = guess_delimiter(file.read(HEAD).decode("utf-8", errors="replace"))
    file.seek(begin)
    if mark != ",":
        rows.guessed.append(
            f"read with {DELIMITER_NAMES.get(mark, mark)} between cells (data.delimiter states another)"
        )
    return mark


def guess_notes(tables: Iterable[Table]) -> list[str]:
    """Notes of what was guessed, each with the files that it concerns."""
    files: dict[str, list[Path]] = {}
    for table in tables:
        for guess in table.guessed:
            files.setdefault(guess, []).append(table.path)
    return [f"{_named(paths)}: {guess}" for guess, paths in files.items()]


def _named(paths: Sequence[Path]) -> str:
    """Lists files by their paths; many files of one folder by their number and an example."""
    folders = {path.parent for path in paths}
    if len(paths) <= APART or len(folders) > 1:
        return listed(list(map(str, paths)), 5)
    return f"{len(paths):,} files in {folders.pop()}, such as {paths[0].name}"


class _Recoded(io.RawIOBase):
    """A file in another encoding, read as UTF-8; bytes that cannot be decoded are passed through."""

    def __init__(self, file: Readable, encoding: str) -> None:
        self._file = file
        self._encoding = encoding
        self._place = 0
        self._left = b""
        self._pieces = self._from_start()

    def _from_start(self) -> Iterator[bytes]:
        self._file.seek(0)
        decoder = codecs.getincrementaldecoder(self._encoding)(errors="surrogateescape")
        while chunk := self._file.read(HEAD):
            yield decoder.decode(chunk).encode("utf-8", errors="surrogateescape")
        yield decoder.decode(b"", final=True).encode("utf-8", errors="surrogateescape")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to an offset from the beginning; going back reads the file again from there."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only offsets from the beginning are supported")
        if offset < self._place:
            self._place, self._left, self._pieces = 0, b"", self._from_start()
        while self._place < offset and self.read(min(offset - self._place, HEAD)):
            pass
        return self._place

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        while not self._left and (piece := next(self._pieces, None)) is not None:
            self._left = piece
        given = self._left[: len(view)]
        view[: len(given)] = given
        self._left = self._left[len(given) :]
        self._place += len(given)
        return len(given)
