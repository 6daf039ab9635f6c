"""Formats numbers and names for people."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape as escape_markup

from fedlease.core.wording import listed, printable

__all__ = [
    "counts_by_label",
    "escape",
    "human_bytes",
    "human_seconds",
    "percent",
    "points",
    "print_note",
    "similarity_texts",
]


LABELS = 6
"""Most labels of a client that are named; more are only counted."""


def counts_by_label(counts: Mapping[str, tuple[int, int]]) -> str:
    """Train and test rows of each label, as ``"no: 12+3, yes: 6+0"``; only counts labels beyond :data:`LABELS`."""
    return listed([f"{label}: {train:,}+{test:,}" for label, (train, test) in counts.items()], LABELS)


def target_column(
    by_label: Mapping[str, Mapping[str, tuple[int, int]]], scales: Mapping[str, tuple[float, float] | None]
) -> tuple[str, Mapping[str, str]]:
    """Title and texts (by client) of the column that describes the targets; empty for generation.

    Args:
        by_label: client -> label -> train and test rows.
        scales: client -> mean and deviation of its numbers.
    """
    if any(scales.values()):
        return "mean ± deviation", {c: "-" if s is None else f"{s[0]:.4g} ± {s[1]:.3g}" for c, s in scales.items()}
    found = {client: counts_by_label(counts) for client, counts in by_label.items()}
    return ("label: train+test", found) if any(by_label.values()) else ("", {})


def escape(text: str) -> str:
    """Text of unknown origin, safe to print: neither markup nor control sequences take effect."""
    return escape_markup(printable(text))


def print_note(console: Console, text: str) -> None:
    """Prints a note, whose text may have any origin."""
    console.print(f"[yellow]note[/] {escape(text)}", soft_wrap=True)


def human_bytes(count: float) -> str:
    """1,234,567 -> ``1.2 MB``; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        digits = 0 if unit == "B" else 1
        if round(abs(count), digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """75 -> ``1 min 15 s``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(value: float | None) -> str:
    """0.876 -> ``87.6``."""
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference in percentage points with its sign; never a negative zero."""
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def similarity_texts(similarities: Sequence[float | None], errors: Sequence[float | None]) -> list[str]:
    """Texts of corrected similarities with their standard errors."""
    pairs = zip(similarities, errors, strict=True)
    return ["unknown" if c is None or error is None else f"{c:.2f} ± {error:.2f}" for c, error in pairs]
