"""Loads data sets from the Hugging Face hub."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedlease.errors import DataError

__all__ = ["load_split"]


def load_split(*name: str, split: str, shown: str, files: str, **options: Any) -> Iterable[Mapping[str, Any]]:
    """Loads one split of a data set; ``name`` and ``options`` are arguments of ``datasets.load_dataset``.

    Args:
        shown: the data set and its part, for the message of an error.
        files: the files that a folder needs as a substitute, for the message of an error.

    Raises:
        DataError: it cannot be loaded.
    """
    import datasets

    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(*name, split=split, **options)
    except Exception as error:  # the hub client raises errors of several HTTP libraries without a common base
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"data.source: {shown} cannot be loaded from the hub ({reason[0]}); without a connection, set data.path to "
            f"a folder with {files}"
        ) from error
    return rows
