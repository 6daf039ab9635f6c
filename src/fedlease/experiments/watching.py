"""Shows the progress of a comparison."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedlease.reporting.bars import bars_on
from fedlease.reporting.formats import escape, percent

if TYPE_CHECKING:
    from fedlease.experiments.cells import Cell
    from fedlease.storage.summary import Summary

__all__ = ["watched_cells"]


@contextmanager
def watched_cells(what: str, name_of: "Callable[[Cell], str]", *, progress: bool) -> Iterator[dict[str, Any]]:
    """Yields the arguments ``listeners`` and ``on_cell`` of a comparison, which print its progress on standard error.

    Printing begins at once, before libraries are loaded.

    Args:
        what: describes what begins.
        name_of: returns the name of a cell.
        progress: whether anything is printed.
    """
    if not progress:
        yield {}
        return
    console = Console(stderr=True)
    bars = bars_on(console)
    bars.waits(what)
    try:
        from fedlease.reporting.comparison.data import Failure
        from fedlease.reporting.means import over
        from fedlease.reporting.progress import ProgressListener
        from fedlease.tasks.metric_words import of_metric

        def on_cell(cell: "Cell", result: "Summary | Failure | None") -> None:
            bars.close()
            name = escape(name_of(cell))
            if isinstance(result, Failure):
                console.print(f"{name}: failed: {escape(result.reason)}", soft_wrap=True)
            elif result is not None:
                mean = f"mean {of_metric(result.metric).name} {percent(result.mean)} %"
                console.print(f"{name}: {mean} over {over(result)} clients", soft_wrap=True)
            elif not cell.finished:
                console.print(f"{name}: runs", soft_wrap=True)

        yield {"listeners": [ProgressListener(console, bars)], "on_cell": on_cell}
    finally:
        bars.close()
