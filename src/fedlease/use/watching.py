"""Progress of a call of Python that takes long."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from fedlease.reporting.bars import Bars, bars_on

if TYPE_CHECKING:
    from fedlease.server.events import Listener

__all__ = ["watched"]


@contextmanager
def watched(
    what: str, *, progress: bool, listeners: "Sequence[Listener]" = ()
) -> "Iterator[Callable[[], Sequence[Listener]]]":
    """Gives the listeners of a run, one that prints before them, and says at once that something begins.

    The first of them loads torch, so that they are made when they are asked for.

    Args:
        what: begins, in words.
        progress: whether anything is printed.
        listeners: of the caller.
    """
    if not progress:
        yield lambda: listeners
        return
    console = Console(stderr=True)
    bars: Bars = bars_on(console)
    bars.waits(what)

    def heard() -> "Sequence[Listener]":
        from fedlease.reporting.terminal import Terminal

        return [Terminal(console, bars=bars), *listeners]

    try:
        yield heard
    finally:
        bars.close()
