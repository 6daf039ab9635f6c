"""``predictions.jsonl``: predictions of every client's final model for its test rows, one line per row."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlease.data.federation import ClientData
from fedlease.storage.run_files import RunFiles

__all__ = ["PREDICTIONS", "lines_of", "write_predictions"]

PREDICTIONS = "predictions.jsonl"


def lines_of(data: ClientData, columns: Mapping[str, list[Any]], root: Path | None) -> Iterator[dict[str, Any]]:
    """A client's test rows with their predictions, in row order; empty without predictions.

    Args:
        data: the client's rows.
        columns: name -> values, one per test row; labels in ``prediction`` are indices.
        root: folder of all rows, to which names of files are relative.
    """
    for number, row in enumerate(data.test if columns else ()):
        found = {name: values[number] for name, values in columns.items()}
        known = data.truth(row)
        truth = {"response": row.response} if known is None else {"label": known}
        found["prediction"] = data.named(found["prediction"])
        place = {} if row.place is None else {"file": _named(row.place[0], root), "line": row.place[1]}
        yield {"client": data.id, "row": number, **place, **truth, **found}


def write_predictions(files: RunFiles, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes predictions; writes no file if there are none.

    Raises:
        OSError: it cannot be written.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        # A row's text may contain lone surrogates.
        files.write(PREDICTIONS, text.encode(errors="backslashreplace"))


def _named(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.name
