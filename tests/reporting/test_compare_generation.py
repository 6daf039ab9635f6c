"""A comparison of runs that write text: in the words of its metric, and plain about rounds without scores."""

import copy
import html
import re
from typing import Any

import pytest
from reporting.comparisons import compared, one_seed

from fedlease.reporting.comparison.data import read_comparison
from fedlease.reporting.comparison.figures import comparison_figures
from fedlease.reporting.comparison.figures_cost import cost_figures
from fedlease.reporting.comparison.page import compare_page, markdown
from fedlease.reporting.comparison.tables import score_table
from fedlease.reporting.comparison.words import facts, reading
from fedlease.reporting.drawing import Figure


def page_of(content: dict[str, Any]) -> str:
    """The page as a person reads it."""
    text = re.sub(r"<(script|style)>.*?</\1>", "", compare_page(content), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def unscored(made: dict[str, Any]) -> dict[str, Any]:
    """The same without a score before the end."""
    content = copy.deepcopy(made)
    for row in content["variants"].values():
        row["points"] = [points[-1:] for points in row["points"]]
    return content


def curves(content: dict[str, Any]) -> Figure:
    return next(figure for figure in comparison_figures(read_comparison(content)) if figure.id == "curves")


class TestWords:
    @pytest.mark.parametrize(
        ("metric", "own", "foreign"),
        [
            ("accuracy", ("accuracy", "Majority class", "naming the most frequent class", "heads local"), "ROUGE"),
            ("rouge1", ("ROUGE-1", "Most frequent answer", "giving the most frequent answer"), "class"),
        ],
    )
    def test_each_kind_has_its_own(self, metric: str, own: tuple[str, ...], foreign: str) -> None:
        text = page_of(compared(metric=metric))
        assert all(word in text for word in own)
        assert foreign not in text and "rouge1" not in text

    def test_the_reading_and_the_terms(self) -> None:
        c = read_comparison(compared(metric="rouge1"))
        assert reading(c)[0] == "local has the highest mean ROUGE-1: 76.0 ± 2.8 %."
        stated = dict(facts(c))
        assert stated["Most frequent answer"] == "50.0 %" and stated["Metric"].startswith("ROUGE-1 in %")
        assert "Heads" not in stated
        assert score_table(c).caption.startswith("ROUGE-1 in % by method")

    def test_the_figures(self) -> None:
        c = read_comparison(compared(metric="rouge1"))
        figures = {figure.id: figure for figure in (*comparison_figures(c), *cost_figures(c))}
        assert figures["tasks"].layout["xaxis"]["title"]["text"] == "ROUGE-1, %"
        assert figures["bytes"].layout["yaxis"]["title"]["text"] == "mean ROUGE-1, %"
        assert figures["curves"].layout["annotations"][0]["text"] == "most frequent answer 50.0"

    def test_the_markdown(self) -> None:
        classes, answers = (markdown(compared(metric=metric)) for metric in ("accuracy", "rouge1"))
        assert classes.startswith("accuracy in %") and "- Heads: local" in classes
        assert classes.endswith("- Majority class: 50.0 %\n")
        assert answers.startswith("ROUGE-1 in %") and "Heads" not in answers
        assert answers.endswith("- Most frequent answer: 50.0 %\n")


class TestRoundsWithoutScores:
    def test_methods_stand_side_by_side_and_the_figure_says_why(self) -> None:
        figure = curves(unscored(compared(metric="rouge1")))
        named = [(trace["x"], trace["y"]) for trace in figure.data if "name" in trace]
        assert named == [(["fedlease"], [75]), (["local"], [76]), (["fedit"], [50])]
        seeds = [(trace["mode"], trace["x"], trace["y"]) for trace in figure.data[:2]]
        assert seeds == [("markers", ["fedlease"], [80]), ("markers", ["fedlease"], [70])]
        assert figure.layout["xaxis"]["title"]["text"] == "final scores: rounds were not scored"
        assert "fedlease ends at 75.0 %." in figure.summary
        assert "Rounds were not scored: these are the final scores." in figure.summary
        assert figure.summary.endswith("Large marks are means over seeds, small ones the seeds.")

    def test_the_page_says_why_there_are_no_curves(self) -> None:
        assert "generation.score_rounds is false" in page_of(unscored(one_seed()))
        assert "generation.score_rounds" not in page_of(one_seed())
