"""How a text file is written: its encoding and the delimiter of its cells, as settings say or as guessed."""

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
"""Those that are guessed, the first of equally good ones."""

WESTERN = "cp1252"
HEAD = 65_536
"""Bytes from which a delimiter is guessed, and that are decoded at a time."""

APART = 3
"""Number of files of one folder up to which they are named."""

LOOKED_AT = 50
"""Rows from which a delimiter is guessed."""

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
    """How text files are written; what is None is guessed for each file.

    Attributes:
        delimiter: one character between the cells of CSV; files that end in ``.tsv`` have tabs.
        encoding: a name that Python knows. A byte order mark in a file counts for more.
    """

    delimiter: str | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, settings: DataSettings) -> "Form":
        """The form that settings state."""
        return cls(settings.delimiter, settings.encoding)


GUESSED = Form()
"""Both are guessed."""


def in_utf8(file: Readable, rows: Gathered, form: Form, *, guess: bool) -> Readable:
    """The content of a file in UTF-8, without a byte order mark, from its beginning.

    Args:
        file: at its beginning, seekable.
        rows: told what was guessed.
        form: states the encoding or leaves it open.
        guess: whether an encoding that is open may be other than UTF-8; JSON is UTF-8 by its standard.

    Raises:
        StoppedError: the encoding cannot be guessed; why is among the faults.
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
    """UTF-8, UTF-16 without a mark, or Windows-1252; None if it is none of them.

    Args:
        file: looked at from its beginning, in pieces.
        most: bytes that are looked at.
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
    # a damaged file in UTF-8 has more characters outside ASCII that are whole
    if broken <= whole:
        return "utf-8"
    return None if undefined or whole > 0 or broken > FOREIGN * (letters + broken) else WESTERN


def _wide(head: bytes) -> str | None:
    """UTF-16 in its two orders, whose every other byte is NUL where most letters are ASCII."""
    half = len(head) // 2
    for order, zeros in (("utf-16-be", head[0::2]), ("utf-16-le", head[1::2])):
        if half and zeros.count(0) > 0.8 * half:
            return order
    return None


def guess_delimiter(head: str) -> str:
    """The delimiter by which most rows have as many cells as the header, and of such ones as many as can be.

    ``head`` is the beginning of a file, whose last line may be cut. A file of one column has commas.
    """
    fits = {mark: _fit(head, mark) for mark in DELIMITERS}
    if fits[","] >= (1.0, 2):
        return ","
    best = max(DELIMITERS, key=lambda mark: fits[mark])
    return best if fits[best] > (0.0, 1) else ","


def _fit(head: str, mark: str) -> tuple[float, int]:
    """The share of rows as wide as the header, and its width."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark)
    try:
        header, *below = list(islice(filter(None, reader), LOOKED_AT))
    except (ValueError, csv.Error):  # no row, or a cell beyond the module's limit
        return 0.0, 1
    if len(below) > 1 and len(below) < LOOKED_AT - 1:
        below = below[:-1]
    if len(header) == 1:
        return 0.0, 1
    return sum(len(cells) == len(header) for cells in below) / len(below) if below else 1.0, len(header)


def delimiter_of(file: Readable, rows: Gathered, form: Form) -> str:
    """The delimiter of a CSV file in UTF-8, which stays where it is."""
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
    """One sentence for each thing that was guessed, with the files of which it was."""
    files: dict[str, list[Path]] = {}
    for table in tables:
        for guess in table.guessed:
            files.setdefault(guess, []).append(table.path)
    return [f"{_named(paths)}: {guess}" for guess, paths in files.items()]


def _named(paths: Sequence[Path]) -> str:
    """Files by their paths; many of one folder by their number."""
    folders = {path.parent for path in paths}
    if len(paths) <= APART or len(folders) > 1:
        return listed(list(map(str, paths)), 5)
    return f"{len(paths):,} files in {folders.pop()}, such as {paths[0].name}"


class _Recoded(io.RawIOBase):
    """A file in another encoding as bytes of UTF-8; bytes without a meaning stay as they are."""

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
        """Goes to a place counted from the beginning: back by reading anew."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("places are counted from the beginning")
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
