"""Means over different clients are never compared in silence: screen, report, comparison."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporting.comparisons import compared
from reporting.report_folders import FINALS, bare, summary

from fedlease.errors import RunFolderError
from fedlease.experiments.common_clients import common, coverage, gap, over_clients
from fedlease.reporting.comparison.data import read_comparison
from fedlease.reporting.comparison.page import markdown
from fedlease.reporting.comparison.words import difference_words, facts, reading
from fedlease.reporting.means import common_words, finals, left_out_lines, own_over, task_over, with_count
from fedlease.reporting.run.advice import advise
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.words import headline
from fedlease.storage.summary import Summary

GONE = "it did not answer at the end: is not connected"


def made(scores: dict[str, float], left_out: dict[str, str] | None = None, total: int = 4, **more: Any) -> Summary:
    rows = {c: {"accuracy": s, "task": "t", "num_test": 10, "majority": 0.5} for c, s in scores.items()}
    content = {"method": "m", "metric": "accuracy", "per_client": rows, "left_out": left_out or {}}
    return Summary.model_validate({**content, "num_clients": total, **more})


class TestScreen:
    def test_the_means_of_common_clients_stand_beside_means_over_others(self) -> None:
        ours = made({"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.1})
        theirs = made({"a": 0.8, "b": 0.6, "c": 0.4}, {"d": GONE})
        # Over all that each scored 55 and 60; over a, b and c 70 and 60.
        assert common_words({"fedlease": ours, "fedit": theirs}) == (
            "The means above are over different clients. Over the 3 of 4 clients that every method scored: "
            "fedlease 70.0, fedit 60.0."
        )
        assert common_words({"fedlease": ours, "local": ours}) == ""
        assert left_out_lines({"fedlease": ours, "fedit": theirs}) == [f"Left out of the means of fedit: d ({GONE})."]

    def test_a_client_that_cannot_learn_is_in_no_mean_though_it_has_a_score(self) -> None:
        with_it = made({"a": 0.5, "b": 1.0}, {"b": "it cannot learn"}, total=2)
        assert common_words({"x": with_it, "y": with_it}) == ""
        assert left_out_lines({"x": with_it, "y": with_it}) == ["Left out of the means: b (it cannot learn)."]

    def test_other_means_say_what_they_are_over_where_that_differs(self) -> None:
        content = made(
            {"a": 0.5, "b": 0.5},
            means_over={"mean": 2, "mean_mcc": 1},
            task_clients={"t": {"averaged": 2, "clients": 3}, "u": {"averaged": 1, "clients": 1}},
        )
        assert (own_over(content, "mean"), own_over(content, "mean_mcc")) == (None, 1)
        assert (task_over(content, "t"), task_over(content, "u")) == ((2, 3), None)
        assert with_count("50.0", (2, 3)) == "50.0 (2 of 3)" and with_count("50.0", 1) == "50.0 (1)"


class TestReport:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """fedit lost b1, its lowest client, at the end."""
        out = bare(tmp_path, baselines=["fedit"])
        summary(out, FINALS, num_clients=4, warnings=["the router starts anew"])
        shifted = {client: score - 0.1 for client, score in FINALS.items() if client != "b1"}
        folder = out / "baselines/fedit"
        summary(folder, shifted, experts=1, num_clients=4, left_out={"b1": GONE})
        return out

    def test_the_difference_is_over_the_clients_that_both_scored(self, folder: Path) -> None:
        said = " ".join(headline(read_run(folder)))
        # fedlease 0.9, 0.8, 0.6, 0.5 has the mean 70; over the first three 76.7, where fedit has 66.7.
        assert "fedlease reaches a mean accuracy of 70.0 % over 4 clients." in said
        assert (
            "The baseline fedit is 10.0 points lower, at 66.7 %; fedlease is better for 3 of 3 clients, worse for 0, "
            "equal for the rest; this is over the 3 of 4 clients that both scored, where fedlease is at 76.7 %."
        ) in said
        assert f"Left out of the means of fedit: b1 ({GONE})." in said

    def test_warnings_of_summaries_reach_it(self, folder: Path) -> None:
        found = {(advice.title, advice.text) for advice in advise(read_run(folder))}
        assert ("Warning of the run", "fedlease: the router starts anew") in found
        assert ("Left out of the means", f"fedit: b1 of 4 clients: {GONE}.") in found


class TestComparison:
    ours = (made({"a": 0.9, "b": 0.7, "c": 0.5}), made({"a": 0.9, "b": 0.7, "c": 0.5}))
    theirs = (made({"a": 0.8, "b": 0.6, "c": 0.7}), made({"a": 0.8, "b": 0.6}, {"c": GONE}))
    third = (made({"b": 0.5, "c": 0.5}, {"a": GONE}), made({"a": 0.5, "b": 0.5, "c": 0.5}))

    def test_means_are_over_the_clients_of_all_and_gaps_over_those_of_the_pair(self) -> None:
        summaries = {"x": self.ours, "y": self.theirs, "z": self.third}
        clients = common(summaries, (0, 1))
        assert clients == [["b", "c"], ["a", "b"]]
        assert over_clients(self.ours[0], clients[0])["mean"] == pytest.approx(0.6)
        assert over_clients(self.theirs[0], clients[0])["worst_client"] == 0.6
        lacking = self.ours[0].per_client | {"b": self.ours[0].per_client["b"].model_copy(update={"majority": None})}
        with pytest.raises(RunFolderError, match=r"is damaged: it has a score and no majority of b$"):
            over_clients(self.ours[0].model_copy(update={"per_client": lacking}), clients[0])
        said = coverage(summaries, (0, 1), clients)
        assert [(entry["averaged"], entry["clients"]) for entry in said] == [(2, 4), (2, 4)]
        unstated = {"x": [found.model_copy(update={"num_clients": None}) for found in self.ours]}
        assert [entry["clients"] for entry in coverage(unstated, (0, 1), clients)] == [3, 3]
        assert said[0]["left_out"] == {"a": f"z: {GONE}"} and said[1]["left_out"] == {"c": f"y: {GONE}"}

        def rows(found: Any) -> list[dict[str, Any]]:
            return [{c: np.full(10, score) for c, score in finals(s).items()} for s in found]

        keys = [{client: [(seed, client, n) for n in range(10)] for client in "abc"} for seed in (0, 1)]
        # Seed 0 over a, b, c: (0.1 + 0.1 - 0.2) / 3 = 0; seed 1 over a, b: 0.1.
        found = gap((self.ours, rows(self.ours)), (self.theirs, rows(self.theirs)), keys)
        assert found["mean"] == pytest.approx(0.05) and found["clients"] == [3, 2]

    def test_without_a_common_client_it_is_refused(self) -> None:
        with pytest.raises(RunFolderError, match="seed 0: no client was scored by all of x, y"):
            common({"x": self.ours[:1], "y": (made({}, dict.fromkeys("abc", GONE)),)}, (0,))

    def test_table_and_page_say_over_whom(self) -> None:
        content = compared(
            coverage=[
                {"seed": 0, "averaged": 4, "clients": 4, "left_out": {}},
                {"seed": 7, "averaged": 3, "clients": 4, "left_out": {"d": f"fedit: {GONE}"}},
            ]
        )
        content["differences"]["fedit"]["clients"] = [4, 3]
        missing = f"In seed 7 the means are over 3 of 4 clients, without d (fedit: {GONE})."
        table = markdown(content)
        assert "Clients: means over 3 to 4 of 4 clients" in table and missing in table
        # fedit's is over the clients that the means are over.
        assert "It is over the clients that both scored, in each seed: local 4, 4." in table
        page = read_comparison(content)
        assert missing in reading(page) and dict(facts(page))["Clients"] == "means over 3 to 4 of 4 clients"
        assert difference_words(page).endswith("the clients that both scored, in each seed: local 4, 4.")
