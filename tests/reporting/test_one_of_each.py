"""A federation of one client, one round, one pass and one thread: what is said of it has no plural of one."""

import io
import re
from pathlib import Path

from reporting.page_text import own_text, plotly_texts
from rich.console import Console
from small import own_rows, small_settings

from fedlease.cli.check_report import render_check
from fedlease.reporting.terminal import Terminal
from fedlease.runs.check import check_settings
from fedlease.runs.runner import run_settings

OF_ONE = re.compile(r"(?<![\d.,/=(-])\b1 (?:[a-z]+ )?([a-z]+s)\b")
SINGULAR = {"is", "was", "has", "pass", "less", "loss", "class", "across", "this", "its", "reports", "trains", "asks"}


def plurals_of_one(text: str) -> list[str]:
    return [found[0] for found in OF_ONE.finditer(" ".join(text.split())) if found[1] not in SINGULAR]


def test_the_search_finds_what_it_is_for() -> None:
    assert plurals_of_one("1 experts for 1 tasks, 1 train rows, 1\nthreads, 11 rows, 0.1 rows, 1 pass over") == [
        "1 experts", "1 tasks", "1 train rows", "1 threads",
    ]  # fmt: skip


def test_nothing_that_is_shown_has_a_plural_of_one(tmp_path: Path) -> None:
    data = own_rows(tmp_path / "data", clients=("alone",), train=4)
    settings = small_settings(data__path=str(data), rounds=1, baselines=["local"], train__batch_size=1)
    screen = Console(file=io.StringIO(), width=10_000)
    run_settings(settings, tmp_path / "r", [Terminal(screen)])
    render_check(check_settings(settings), screen)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    page = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", own_text(html), flags=re.DOTALL)
    page += " ".join(plotly_texts(html))
    for words in ("1 client", "1 task", "1 thread", "1 expert"):
        assert words in shown
    assert plurals_of_one(shown) == plurals_of_one(page) == []
    assert "1 round of 1 local epoch, warm-up 1 epoch; 2 passes" in page
