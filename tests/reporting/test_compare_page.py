"""The page of a comparison: the same from the same content, alone, deaf to names, and plain about what is not known."""

import copy
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from reporting.comparisons import HOSTILE_TASKS, alone, compared, hostile, many, one_seed, three_seeds, tuned, variant
from reporting.page_text import data_block, embedded, fetched, own_text, plotly_texts
from reporting.report_folders import bare, put

from fedlease.errors import RunFolderError
from fedlease.reporting.comparison.data import Comparison, read_comparison
from fedlease.reporting.comparison.figures import comparison_figures
from fedlease.reporting.comparison.figures_cost import cost_figures, unbeaten
from fedlease.reporting.comparison.page import compare_page, markdown, write_compare_page
from fedlease.reporting.comparison.tables import cost_table, rate_table, score_table, settings_table
from fedlease.reporting.comparison.words import difference_words, facts, reading, title
from fedlease.reporting.drawing import Figure
from fedlease.reporting.run.page import write_pictures, write_report

MINUS = "\N{MINUS SIGN}"
FIGURES = {"tasks", "differences", "curves", "bytes", "seconds"}


def figures(content: dict[str, Any]) -> dict[str, Figure]:
    c = read_comparison(content)
    return {figure.id: figure for figure in (*comparison_figures(c), *cost_figures(c))}


@pytest.fixture
def comparison() -> Comparison:
    return read_comparison(compared())


class TestThePage:
    def test_the_same_content_gives_the_same_bytes_in_any_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first = write_compare_page(compared(), tmp_path / "a")
        again = write_compare_page(json.loads(json.dumps(compared())), tmp_path / "b")
        assert first.name == "compare.html"
        assert first.read_bytes() == again.read_bytes()

    def test_nothing_is_fetched(self) -> None:
        page = compare_page(compared())
        assert len(own_text(page)) < 100_000
        assert fetched(page)
        assert all(target.startswith("#") or target == "data:," for target in fetched(page))
        assert "default-src 'none'" in page
        assert "url(" not in own_text(page) and "@import" not in own_text(page)

    @pytest.mark.parametrize("made", [compared, one_seed, alone, hostile, tuned])
    def test_every_link_has_its_section(self, made: Any) -> None:
        page = compare_page(made())
        sections = re.findall(r'<section id="([a-z]+)">', page)
        assert sections == re.findall(r'<a href="#([a-z]+)">', page)
        assert sections == [
            "compared", "scores", "differences", "curves", "cost", *(["rates"] if made is tuned else []),
        ]  # fmt: skip

    @pytest.mark.parametrize("made", [compared, one_seed, alone, hostile, many])
    def test_every_figure_has_words_and_a_table_and_plotly_accepts_it(self, made: Any) -> None:
        import plotly.graph_objects as go

        page = compare_page(made())
        drawn = embedded(page)["figures"]
        assert set(drawn) == (FIGURES - {"differences"} if made is alone else FIGURES)
        for name, figure in drawn.items():
            assert re.search(rf'id="plot-{name}" role="img" aria-label="[^"]{{20,}}"', page)
            go.Figure(figure)  # raises on a property that does not exist
        assert page.count("Data of this figure") == len(drawn)

    def test_names_that_try_to_be_markup_stay_text(self) -> None:
        page = compare_page(hostile())
        for name in HOSTILE_TASKS:
            assert name not in page
            assert html.escape(name).replace("&quot;", "&#34;") in page
        assert "{{ 7 * 7 }}" in page  # printed, not computed
        assert page.count("<script") == 3
        assert not set("<>&") & set(data_block(page))

    def test_plotly_gets_no_markup_and_no_templates(self) -> None:
        texts = plotly_texts(compare_page(hostile()))
        assert any("&lt;img" in text for text in texts)
        # The line break is the page's own; no other element is in any text.
        assert {tag for text in texts for tag in re.findall(r"<[^>]*>?", text)} <= {"<br>"}


class TestTheReading:
    def test_it_says_who_is_best_what_the_interval_holds_and_where_the_first_loses(self) -> None:
        # Over the three seeds: fedlease 0.75, local 0.76; 0.78, 0.74 and 0.76 have standard deviation 0.02.
        said = reading(read_comparison(three_seeds()))
        assert said[0] == "local has the highest mean accuracy: 76.0 ± 2.0 %."
        assert said[1] == (
            f"fedlease gets 75.0 ± 5.0 %, {MINUS}1.0 points (95 % interval {MINUS}4.0 to +2.0) against local. "
            "The interval holds zero: the two cannot be told apart."
        )
        assert said[2] == "By the intervals fedlease is above fedit; cannot be told from local."
        # Tasks: mood 70 against 80 of local; news 80 against 72. Worst clients: 65 and 66.
        assert said[3] == (
            "fedlease is behind on 1 of 2 tasks: mood (local 80.0, against 70.0 %). These are plain means, without "
            "intervals. Its worst client gets 65.0 %, that of local 66.0 %."
        )
        assert said[4].endswith("would get 50.0 %; fedit is no better than that.")
        assert said[5] == "± is the standard deviation over 3 seeds: few, so that spread and intervals are rough."

    @pytest.mark.parametrize(("made", "seeds"), [(one_seed, 1), (compared, 2)])
    def test_below_three_seeds_nothing_is_said_of_zero(self, made: Any, seeds: int) -> None:
        content = made()
        assert len(content["seeds"]) == seeds
        c = read_comparison(content)
        said = [*reading(c), difference_words(c), *(figure.summary for figure in comparison_figures(c))]
        said += [text for figure in comparison_figures(c) for row in (figure.header, *figure.rows) for text in row]
        said += [trace.get("name", "") for figure in comparison_figures(c) for trace in figure.data]
        assert not any("zero" in line or "told" in line or "better here" in line for line in said)
        assert said[1].endswith("3 seeds at least are needed to say whether that is more than chance.")

    def test_a_first_that_is_best_is_said_to_be(self) -> None:
        content = three_seeds()
        content["variants"]["local"]["mean"] = {"mean": 0.7, "deviation": 0.0, "values": [0.7] * 3}
        content["differences"]["local"] = {"mean": 0.05, "low": 0.02, "high": 0.08, "seeds": 3, "clients": [4] * 3}
        said = reading(read_comparison(content))
        assert said[0] == "fedlease has the highest mean accuracy: 75.0 ± 5.0 %."
        assert said[1] == (
            "local follows with 70.0 ± 0.0 %; against it fedlease is at +5.0 points (95 % interval +2.0 to +8.0). "
            "The interval does not hold zero: fedlease is better here."
        )
        assert said[2] == "By the intervals fedlease is above local and fedit."

    def test_an_interval_below_zero_speaks_for_the_other(self) -> None:
        content = three_seeds()
        content["differences"]["local"] = {"mean": -0.01, "low": -0.02, "high": -0.005, "seeds": 3, "clients": [4] * 3}
        said = reading(read_comparison(content))
        assert said[1].endswith("The interval does not hold zero: local is better here.")
        assert said[2] == "By the intervals fedlease is above fedit; is below local."

    def test_equal_means_share_the_first_place(self) -> None:
        content = compared()
        content["variants"]["local"]["mean"] = content["variants"]["fedlease"]["mean"]
        said = reading(read_comparison(content))
        assert said[0] == "fedlease and local share the highest mean accuracy, 75.0 %."

    def test_one_seed_has_no_spread_and_says_so(self) -> None:
        c = read_comparison(one_seed())
        assert any("There is one seed, 3, so that no spread over seeds is known" in line for line in reading(c))
        page = own_text(compare_page(one_seed()))
        assert "±" not in page and "error_y" not in data_block(page)
        drawn = figures(one_seed())
        assert "One seed, so no spread is drawn." in drawn["tasks"].summary
        assert all("error_x" not in trace for trace in drawn["tasks"].data)
        assert "Thick lines" not in drawn["curves"].summary and len(drawn["curves"].data) == 2
        assert "interval is over test rows alone." in difference_words(c)
        assert "Student's over the 2 seeds" in difference_words(read_comparison(compared()))

    def test_a_method_alone_has_a_page(self) -> None:
        c = read_comparison(alone())
        assert title(c) == "fedlease alone"
        assert reading(c)[0] == "fedlease reaches a mean accuracy of 80.0 %. Nothing else was run."
        assert score_table(c).header == ("method", "mean", "worst client", "mood", "news")

    def test_the_terms_are_stated(self, comparison: Comparison) -> None:
        stated = dict(facts(comparison))
        assert stated["Budget"] == "5 passes over each client's train rows, the same for all"
        assert stated["Heads"] == "local: trained and kept by each client"
        assert (stated["Seeds"], stated["Majority class"], stated["Clients"]) == (
            "2: 0, 7",
            "50.0 %",
            "means over all 4 clients",
        )
        assert title(comparison) == "fedlease against local and fedit"


class TestTheTables:
    def test_scores(self, comparison: Comparison) -> None:
        table = score_table(comparison)
        assert table.header == (
            "method", "mean", "fedlease above it by (95 % interval)", "worst client", "mood", "news",
        )  # fmt: skip
        assert [cell.text for cell in table.rows[1]] == [
            "local", "76.0 ± 2.8", f"{MINUS}1.0 ({MINUS}4.0 to +2.0)", "66.0 ± 2.8", "80.0 ± 0.0", "72.0 ± 5.7",
        ]  # fmt: skip
        assert table.rows[0][2].text == "" and table.rows[1][2].value == -0.01
        best = [[row[0].text for row in table.rows if row[column].best] for column in (1, 3, 4, 5)]
        assert best == [["local"], ["local"], ["local"], ["fedlease"]]

    def test_costs(self, comparison: Comparison) -> None:
        rows = [[cell.text for cell in row] for row in cost_table(comparison).rows]
        assert rows[0] == ["fedlease", "2, 3", "1.0 kB", "4.0 kB", "1,664", "1 min 0 s"]
        assert rows[1][1:4] == ["-", "0 B", "0 B"]

    def test_learning_rates_are_shown_where_they_were_chosen(self, comparison: Comparison) -> None:
        assert rate_table(comparison) is None
        table = rate_table(read_comparison(tuned()))
        assert table is not None and table.header == ("method", "chosen", "0.0003", "0.001", "0.003")
        assert [cell.text for cell in table.rows[0]] == ["fedlease", "0.001", "60.0", "70.0", "65.0"]
        assert [cell.text for cell in table.rows[0] if cell.best] == ["70.0"]

    def test_settings_of_ones_own_are_shown(self, comparison: Comparison) -> None:
        assert settings_table(comparison) is None
        assert settings_table(read_comparison(tuned())) is None  # the learning rates have a table of their own
        content = compared()
        content["variants"]["fedit"]["changes"] = {"lora.r": 32, "fedlease.routing": "own"}
        table = settings_table(read_comparison(content))
        assert table is not None
        assert [row[2].text for row in table.rows] == ["none", "none", 'fedlease.routing = "own", lora.r = 32']


class TestTheFigures:
    def test_curves_are_over_passes_so_that_a_warm_up_counts_with_all_of_its_own(self) -> None:
        figure = figures(compared())["curves"]
        thick = {trace["name"]: trace for trace in figure.data if "name" in trace}
        # Warm-up of three passes and two rounds, beside five rounds.
        assert thick["fedlease"]["x"] == [0, 3, 4, 5]
        assert thick["fedit"]["x"] == [0, 1, 2, 3, 4, 5]
        assert thick["fedlease"]["y"] == [25, 30, 35, 75]
        assert [trace["y"][-1] for trace in figure.data if "name" not in trace] == [80, 70, 78, 74, 50, 50]
        assert "fedlease goes from 25.0 to 75.0 %." in figure.summary

    def test_where_a_seed_has_no_score_there_is_no_mean(self) -> None:
        content = compared()
        content["variants"]["fedlease"]["points"][1][1]["mean"] = None
        figure = figures(content)["curves"]
        (mean,) = [trace for trace in figure.data if trace.get("name") == "fedlease"]
        assert mean["x"] == [0, 4, 5]
        assert ("fedlease", "3", "-", "30.0", "-") in figure.rows

    def test_tasks_have_a_dot_and_a_deviation_per_method(self) -> None:
        figure = figures(compared())["tasks"]
        local = figure.data[1]
        assert local["x"] == [80, 72, 76]  # mood, news, mean over clients
        assert local["y"] == [0, 1, 2]  # the middle one of three
        # 0.76 and 0.68 on news: 0.08 / sqrt(2) = 0.0566.
        assert local["error_x"]["array"] == [0, 5.66, 2.83]

    def test_intervals_that_hold_zero_are_open(self) -> None:
        figure = figures(three_seeds())["differences"]
        without, holding = figure.data
        assert (without["marker"]["symbol"], without["x"], without["y"]) == ("circle", [25], [1])
        assert (holding["marker"]["symbol"], holding["x"], holding["y"]) == ("circle-open", [-1], [0])
        assert (holding["error_x"]["array"], holding["error_x"]["arrayminus"]) == ([3], [3])
        assert [(shape["x0"], shape["x1"]) for shape in figure.layout["shapes"]] == [(0, 0)]
        low, high = figure.layout["xaxis"]["range"]
        assert low < -4 and high > 30
        assert figure.rows[0] == ("local", f"{MINUS}1.0", f"{MINUS}4.0", "+2.0", "yes")

    def test_scores_stand_against_bytes(self) -> None:
        figure = figures(compared())["bytes"]
        assert [(trace["x"], trace["y"]) for trace in figure.data] == [([1000], [75]), ([0], [76]), ([500], [50])]

    def test_scores_stand_against_time(self) -> None:
        figure = figures(compared())["seconds"]
        assert [(trace["x"], trace["y"]) for trace in figure.data] == [([60], [75]), ([60], [76]), ([60], [50])]
        assert figure.rows[0] == ("fedlease", "1 min 0 s", "75.0 ± 7.1")


class TestManyMethods:
    """Twenty, of five kinds; see :func:`reporting.comparisons.many`."""

    def test_they_are_grouped_by_kind_and_each_group_begins_with_its_best(self) -> None:
        c = read_comparison(many())
        assert c.kinds == ("groups", "one for all", "partly own", "not federated", "added")
        names = [m.name for m in c.variants]
        assert (names[0], names[1], names[9], names[10], names[17:]) == (
            "fedlease", "shared-11", "shared-3", "own-19", ["own-12", "local", "theirs"],
        )  # fmt: skip
        rows = [[cell.text for cell in row[:3]] for row in score_table(c).rows]
        assert rows[1] == ["shared-11", "one for all", "61.0 ± 0.0"]
        assert dict(facts(c))["Compared"].endswith("not federated: local; added: theirs")

    def test_eight_are_shown_one_by_one_in_their_own_order(self) -> None:
        content = many()
        content["variants"] = dict(list(content["variants"].items())[:8])
        c = read_comparison(content)
        assert [m.name for m in c.variants] == list(content["variants"])
        assert score_table(c).header[1] == "mean"

    def test_figures_have_a_line_or_a_colour_and_not_a_legend_of_each(self) -> None:
        drawn = figures(many())
        # A line for each of 20 methods and each of 5 kinds; without the first, which stands alone in its kind, 23.
        for name, count in (("tasks", 25), ("differences", 23)):
            assert len(drawn[name].layout["yaxis"]["ticktext"]) == count
        for name in ("curves", "bytes", "seconds"):
            listed = [trace["name"] for trace in drawn[name].data if trace["showlegend"]]
            assert listed == ["groups", "one for all", "partly own", "not federated", "added"]
        assert all(figure.height <= 750 for figure in drawn.values())
        assert all(len(drawn[name].summary) < 200 for name in ("curves", "differences", "tasks"))

    def test_names_stand_by_what_nobody_beats_at_less_cost_and_by_the_first(self) -> None:
        # Number n sends n kB for .5 + n / 100: who sends more is better. In 20 - n minutes: the last is best in both.
        notes = {
            name: [n["text"] for n in figures(many())[name].layout["annotations"]] for name in ("bytes", "seconds")
        }
        assert len(notes["bytes"]) == 20
        assert notes["seconds"] == ["fedlease", "own-19"]
        assert unbeaten([0.5, 0.5, 0.6, 0.4], [1.0, 2.0, 3.0, 1.0]) == [0, 2]

    def test_long_lists_of_names_are_counted(self) -> None:
        content = many()
        content.update(seeds=[0, 1, 2], coverage=[{**content["coverage"][0], "seed": n} for n in range(3)])
        for row in content["variants"].values():
            for key in ("num_experts", "bytes_up", "bytes_down", "seconds", "points"):
                row[key] = [*row[key], row[key][0]]
            row["mean"]["values"] = [*row["mean"]["values"], row["mean"]["mean"]]
        # -n / 100 with 5 points on both sides: zero is left out from number 6 on.
        said = reading(read_comparison(content))[2]
        assert said == "By the intervals fedlease is below 14 of the 19 others; cannot be told from " + (
            "shared-5, shared-4, shared-3, local and theirs."
        )


class TestWhatFailed:
    def test_it_stands_in_table_page_and_text_with_its_reason(self) -> None:
        content = compared(failed={"fedsvd": {"method": "fedsvd", "seed": None, "reason": "no <b>room</b>"}})
        text = markdown(content)
        assert "| fedsvd | failed | - | - | - | - |" in text
        assert "| fedsvd | before any run | no <b>room</b> |" in text
        assert "- fedsvd fails and is not compared; the reasons stand by the scores." in text
        page = own_text(compare_page(content))
        assert "no &lt;b&gt;room&lt;/b&gt;" in page and "no <b>room" not in page

    def test_where_nothing_did_nothing_is_said(self) -> None:
        assert "fail" not in markdown(compared())


class TestTheFolder:
    def test_report_writes_the_page_of_a_comparison_anew(self, tmp_path: Path) -> None:
        put(tmp_path / "compare.json", compared())
        page = write_report(tmp_path)
        assert page == tmp_path / "compare.html"
        assert page.read_text(encoding="utf-8") == compare_page(compared())
        assert not (tmp_path / "report.html").exists()

    def test_a_run_folder_stays_one(self, tmp_path: Path) -> None:
        put(bare(tmp_path) / "compare.json", compared())
        assert write_report(tmp_path).name == "report.html"

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"is not a run folder: it holds no config\.yaml"):
            write_report(tmp_path)
        (tmp_path / "compare.json").write_text("{")
        with pytest.raises(RunFolderError, match=r"compare\.json is damaged: JSONDecodeError"):
            write_report(tmp_path)

    def test_pictures_are_of_runs(self, tmp_path: Path) -> None:
        put(tmp_path / "compare.json", compared())
        with pytest.raises(RunFolderError, match="holds a comparison: pictures are drawn of one run"):
            write_pictures(tmp_path, tmp_path / "pictures")

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("seeds", None, "seeds must be a valid tuple, received NoneType"),
            ("seeds", [0], "fedlease needs one value per seed, 1 of each kind"),
            ("first", "nobody", "variants must be an object that holds the first, 'nobody'"),
            ("differences", {}, "differences has no 'local'"),
            ("majority_mean", float("nan"), "majority_mean must be a finite number"),
            ("variants", {"fedlease": 3}, r"variants\.fedlease must be an object"),
        ],
    )
    def test_damage_is_named(self, key: str, value: Any, said: str) -> None:
        with pytest.raises(RunFolderError, match=rf"compare\.json is damaged: .*{said}"):
            compare_page({**compared(), key: value})

    def test_other_tasks_are_damage(self) -> None:
        content = copy.deepcopy(compared())
        content["variants"]["local"] = variant("local", [0.5, 0.5], {"other": [0.5, 0.5]})
        with pytest.raises(RunFolderError, match="local has other tasks than fedlease"):
            compare_page(content)
