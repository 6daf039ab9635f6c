"""The one place that loads from the hub of data sets."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedlease.errors import DataError

__all__ = ["load_split"]


def load_split(*name: str, split: str, shown: str, files: str, **options: Any) -> Iterable[Mapping[str, Any]]:
    """One split of a data set of the hub, with the arguments of ``datasets.load_dataset``.

    Args:
        shown: the data set and its part, for the message.
        files: what a folder must hold in its place.

    Raises:
        DataError: it cannot be had.
    """
    import datasets

    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(*name, split=split, **options)
    except Exception as error:  # the hub client raises errors of several HTTP libraries without a common base
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"data.source: {shown} cannot be loaded from the hub ({reason[0]}); without a connection, set data.path to "
            f"a folder that holds {files}"
        ) from error
    return rows
