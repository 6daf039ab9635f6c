"""The page: complete, the same from the same folder, alone, and deaf to what names try to be."""

import builtins
import html
import re
from pathlib import Path
from typing import Any

import pytest
from reporting.page_text import data_block, embedded, fetched, own_text, plotly_texts
from reporting.report_folders import (
    CLIENTS,
    DISTANCES,
    FINALS,
    HOSTILE,
    IMAGE,
    SCRIPT,
    allocation,
    bare,
    finished,
    hostile,
    line,
    steps,
    summary,
)

from fedlease.errors import ConfigError, MissingPackageError
from fedlease.reporting.drawing import label
from fedlease.reporting.run import page as report
from fedlease.reporting.run.data import RunData
from fedlease.reporting.run.figures_clients import allocation_figures, ordered_clients
from fedlease.reporting.run.figures_run import bytes_figures, score_figures, seconds_figures, usage_figures
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.tables import bytes_table, client_table, task_table
from fedlease.reporting.run.usage_numbers import short_modules, usage_by_depth, usage_sentence
from fedlease.reporting.run.verdict import conclude
from fedlease.reporting.run.words import allocation_words, facts, headline


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    return read_run(finished(tmp_path))


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    first = report.write_report(finished(tmp_path)).read_bytes()
    assert report.write_report(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("report")) == ["report.html"]


def test_nothing_is_fetched(tmp_path: Path) -> None:
    whole = report.write_report(finished(tmp_path)).read_text()
    page = own_text(whole)
    assert len(page) < 200_000  # without plotly.js, so what is searched is the page itself
    assert fetched(whole)
    assert all(target.startswith("#") or target == "data:," for target in fetched(whole))
    assert "default-src 'none'" in page
    assert "url(" not in page and "@import" not in page and "fetch(" not in page


def test_every_state_has_every_section(tmp_path: Path) -> None:
    sections = ["verdict", "warnings", "scores", "allocation", "usage", "bytes", "seconds", "run"]
    for folder in (bare(tmp_path / "a"), finished(tmp_path / "b")):
        page = report.write_report(folder).read_text()
        assert re.findall(r'<section id="(\w+)">', page) == sections


def test_every_figure_has_words_and_a_table(tmp_path: Path) -> None:
    page = report.write_report(finished(tmp_path)).read_text()
    figures = embedded(page)["figures"]
    assert set(figures) == {
        "verdict", "distances", "dendrogram", "silhouettes", "score-means", "score-tasks", "usage-depth",
        "usage-client", "bytes-steps", "seconds-total", "seconds-steps",
    }  # fmt: skip
    for name in figures:
        assert re.search(rf'id="plot-{name}" role="img" aria-label="[^"]{{20,}}"', page)
    assert page.count("Data of this figure") == len(figures)


def test_plotly_accepts_every_figure(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    for figure in embedded(report.write_report(finished(tmp_path)).read_text())["figures"].values():
        go.Figure(figure)  # raises on a property that does not exist


def test_names_that_try_to_be_markup_stay_text(tmp_path: Path) -> None:
    page = report.write_report(hostile(tmp_path)).read_text()
    assert IMAGE not in page and SCRIPT not in page
    assert html.escape(SCRIPT) in page
    assert "{{ 7 * 7 }}" in page  # printed, not computed
    assert "\x1b" not in page and "\u202e" not in page
    assert page.count("<script") - page.count("<script ") == len(re.findall(r"<script>", page))
    assert not set("<>&") & set(data_block(page))


def test_plotly_gets_no_markup_and_no_templates(tmp_path: Path) -> None:
    texts = plotly_texts(report.write_report(hostile(tmp_path)).read_text())
    assert any("&lt;img" in text for text in texts)
    # The line break is the page's own; no other element is in any text.
    assert {tag for text in texts for tag in re.findall(r"<[^>]*>?", text)} <= {"<br>"}


def test_label_escapes_cleans_and_shortens() -> None:
    assert label("<b>&\x07") == "&lt;b&gt;&amp;\N{REPLACEMENT CHARACTER}"
    assert label("abcdef", 4) == "a\N{HORIZONTAL ELLIPSIS}ef"


def test_the_headline_says_where_a_baseline_is_better(run: RunData) -> None:
    said = headline(run)
    # Means: 0.7, fedit 0.6, local 0.75; every client moves with its method.
    assert said[0] == "fedlease reaches a mean accuracy of 70.0 % over 4 clients."
    assert said[1].startswith("The baseline fedit is 10.0 points lower, at 60.0 %; fedlease is better for 4 of 4")
    assert said[2].startswith("The baseline local is better by 5.0 points, at 75.0 %; fedlease is better for 0 of 4")
    assert "50.0 %, the untrained model 25.0 %" in said[3]
    assert said[4] == "The lowest client is b1, with 50.0 %."


def test_an_unfinished_run_has_no_result(tmp_path: Path) -> None:
    assert headline(read_run(bare(tmp_path))) == ["fedlease has no final scores yet, and nothing has been scored."]
    steps(tmp_path, [line(1, 0, {"a0": 0.25, "b0": 0.75})])
    (said,) = headline(read_run(tmp_path))
    assert said.endswith("After 1 step the model that 2 clients received scores 50.0 % on average.")


def test_no_path_of_this_machine_is_shown(tmp_path: Path) -> None:
    bare(tmp_path, **{"data.path": str(tmp_path / "rows"), "data.source": "folder", "model": str(tmp_path / "base")})
    assert str(tmp_path.parent) not in own_text(report.write_report(tmp_path).read_text())
    assert dict(facts(read_run(tmp_path)))["Base model"] == "base"


def test_the_agreement_with_the_tasks(run: RunData) -> None:
    assert "is 1.00:" in allocation_words(run)[1]  # the groups are the tasks


def test_distances_are_ordered_by_expert_and_blocks_are_outlined(run: RunData) -> None:
    assert run.grouping is not None
    assert ordered_clients(run.grouping, "average") == ["a0", "a1", "b0", "b1"]
    heat, tree, bars = allocation_figures(run)
    assert heat.data[0]["z"] == [[None, 0.2, 1, 1], [0.2, None, 1, 1], [1, 1, None, 0.4], [1, 1, 0.4, None]]
    assert [(s["x0"], s["x1"]) for s in heat.layout["shapes"]] == [(-0.5, 1.5), (1.5, 3.5)]
    # Within: 0.2 and 0.4, so 0.3; between: 1.
    assert "Mean within groups 0.300, between groups 1.000" in heat.summary
    # Joined at 0.2, 0.4 and 1: two groups are what is left between 0.4 and 1.
    assert [row[1] for row in tree.rows] == ["0.200", "0.400", "1.000"]
    assert tree.layout["shapes"][0]["x0"] == pytest.approx(0.7)
    assert bars.data[0]["marker"]["pattern"]["shape"] == ["/", ""]
    assert bars.layout["shapes"][0]["y0"] == run.settings.min_silhouette


def test_one_expert_has_no_cut(tmp_path: Path) -> None:
    allocation(bare(tmp_path), DISTANCES, dict.fromkeys(CLIENTS, 0), {"2": 0.01})
    tree = allocation_figures(read_run(tmp_path))[1]
    assert tree.layout["shapes"] == [] and "It is not cut" in tree.summary


@pytest.mark.parametrize("method", ["fedit", "local"])
def test_a_method_without_experts_has_a_page(tmp_path: Path, method: str) -> None:
    steps(bare(tmp_path, method=method), [line(1, 1, FINALS)])
    summary(tmp_path, FINALS, experts=1)
    page = report.write_report(tmp_path).read_text()
    assert f"{method} has no allocation of clients to experts." in page
    assert "so there is no expert usage" in page
    assert "own expert only" not in page


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_clients_have_a_page(tmp_path: Path, count: int) -> None:
    clients = dict(list(CLIENTS.items())[:count])
    bare(tmp_path, clients)
    allocation(tmp_path, [row[:count] for row in DISTANCES[:count]], dict.fromkeys(clients, 0), {})
    figures = embedded(report.write_report(tmp_path).read_text())["figures"]
    assert set(figures) == (set() if count == 1 else {"distances", "dendrogram"})


def test_a_hundred_clients_and_many_methods_stay_readable(tmp_path: Path) -> None:
    clients = {f"client-{n:03}": f"task-{n % 4}" for n in range(100)}
    bare(tmp_path, clients)
    distances = [[0.0 if i == j else 0.2 if i % 4 == j % 4 else 1.0 for j in range(100)] for i in range(100)]
    allocation(tmp_path, distances, {c: n % 4 for n, c in enumerate(clients)}, {"4": 0.8, "5": 0.5})
    steps(tmp_path, [line(1, 0, dict.fromkeys(clients, 0.5))])
    figures = embedded(report.write_report(tmp_path).read_text())["figures"]
    assert len(figures["distances"]["layout"]["xaxis"]["ticktext"]) == 25  # every fourth of 100
    assert len(figures["score-tasks"]["data"]) == 5  # four tasks and the client picked


def test_many_clients_are_drawn_as_groups_and_the_page_does_not_grow_with_their_square(tmp_path: Path) -> None:
    count = 300
    clients = {f"client-{n:03}": f"task-{min(n, 3)}" for n in range(count)}
    bare(tmp_path, clients)
    # Three clients alone with an expert, all others share one: 0.2 within, 1 between.
    expert = [min(n, 3) for n in range(count)]
    distances = [
        [0.0 if i == j else 0.2 if expert[i] == expert[j] else 1.0 for j in range(count)] for i in range(count)
    ]
    allocation(tmp_path, distances, dict(zip(clients, expert, strict=True)), {"4": 0.8})
    heat = allocation_figures(read_run(tmp_path))[0]
    assert heat.data[0]["z"] == [[None, 1, 1, 1], [1, None, 1, 1], [1, 1, None, 1], [1, 1, 1, 0.2]]
    assert heat.rows[3] == ("expert 4", "1.000", "1.000", "1.000", "0.200")
    assert "4 experts, of 300 clients in all. Mean within groups 0.200, between groups 1.000." in heat.summary


def test_the_client_table_has_every_score(run: RunData) -> None:
    table = client_table(run, conclude(run))
    assert table.header[-5:-1] == ("fedlease", "fedit", "local", "own expert only")
    cells = [cell.text for cell in table.rows[0]]
    assert cells[:-1] == ["a0", "news", "1", "10", "20", "50.0", "25.0", "90.0", "80.0", "95.0", "80.0"]
    assert cells[-1].startswith("\N{MINUS SIGN}5.0 (") and cells[-1].endswith(") unclear")
    assert [cell.text for cell in table.rows[0] if cell.best] == ["95.0"]
    assert [cell.text for cell in table.foot[0]][-5:-1] == ["70.0", "60.0", "75.0", "60.0"]
    assert [cell.text for cell in table.foot[1]] == ["clients in the mean", *[""] * 4, *["4 of 4"] * 6, ""]


def test_a_late_client_is_marked(tmp_path: Path) -> None:
    bare(tmp_path)
    allocation(tmp_path, [row[:3] for row in DISTANCES[:3]], {"a0": 0, "a1": 0, "b0": 1}, {"2": 0.7})
    run = read_run(tmp_path)
    assert [row[2].text for row in client_table(run, conclude(run)).rows] == ["1", "1", "2", "late"]


def test_the_task_table_has_the_means(run: RunData) -> None:
    table = task_table(run)
    assert table is not None
    assert [[cell.text for cell in row[:3]] for row in table.rows] == [["mood", "2", "55.0"], ["news", "2", "85.0"]]


def test_bytes_stand_beside_sending_everything(run: RunData) -> None:
    table = bytes_table(run)
    assert table is not None
    # 3 steps of 100 up and 400 down: a quarter is sent.
    assert [cell.text for cell in table.rows[0]] == ["fedlease", "300 B", "1.2 kB", "1.2 kB", "75 %", "21 B", "0 B"]
    (figure,) = bytes_figures(run)
    (everything,) = [trace for trace in figure.data if trace["name"] == "up, if all were sent"]
    assert everything["y"] == [400, 400, 400]


def test_seconds_are_by_phase(run: RunData) -> None:
    total, by_step = seconds_figures(run)
    assert total.rows[0] == ("fedlease", "6.0 s", "1.5 s", "0.0 s")
    assert [trace["y"] for trace in by_step.data] == [[2.0] * 3, [0.5] * 3, [0.0] * 3]


def test_score_curves(run: RunData) -> None:
    means, tasks = score_figures(run)
    assert means.data[0]["y"] == [25.0, 50.0, 50.0, 70.0]
    assert {trace["name"]: trace["y"][-1] for trace in tasks.data[:2]} == {"mood": 55.0, "news": 85.0}


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fedlease", ["expert 1", "expert 2"]),
        ("fedtreelora", ["own group", "everyone outside it"]),
        ("fedalt", ["own adapter", "mean of the others"]),
        ("feddpa", ["shared adapter", "own adapter"]),
    ],
)
def test_weights_are_named_by_what_they_belong_to(method: str, names: list[str], tmp_path: Path) -> None:
    """Only under FedLEASE is a place in the mixture the number of an expert of the assignment."""
    bare(tmp_path, method=method)
    summary(tmp_path, FINALS)
    figure = next(figure for figure in usage_figures(read_run(tmp_path)) if figure.id == "usage-client")
    assert [trace["name"] for trace in figure.data] == names
    assert list(figure.header[2:]) == names


def test_usage_is_stated_as_the_numbers_have_it(tmp_path: Path, run: RunData) -> None:
    assert [(layer.name, layer.overall) for layer in usage_by_depth(run)] == [("0", 2.0), ("1", 1.0)]
    assert usage_sentence(run).startswith("Deeper layers use fewer experts: the first layer averages 2.00")
    assert "All tasks use about as many" in usage_sentence(run)
    routed = {"m.layer.0.q": 1.0, "m.layer.1.q": 3.0}
    usage = {
        client: {
            module: {"weights": [0.5, 0.5], "experts_per_token": value + (client[0] == "b")}
            for module, value in routed.items()
        }
        for client in CLIENTS
    }
    summary(tmp_path, FINALS, expert_usage=usage)
    said = usage_sentence(read_run(tmp_path))
    assert said.startswith(
        "Deeper layers use more experts: the first layer averages 1.50 experts per token, the last 3.50"
    )
    assert "Clients of mood use most, 3.00 on average, and those of news least, 2.00." in said


def test_short_module_names_are_unique_or_whole() -> None:
    assert short_modules(["m.layer.10.self.query", "m.h.2.v"]) == ["10 query", "2 v"]
    assert short_modules(["d.0.self.q", "d.0.cross.q"]) == ["d.0.self.q", "d.0.cross.q"]


def test_pictures_without_kaleido_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"pip install 'fedlease\[pictures\]'"):
        report.write_pictures(tmp_path, tmp_path / "pictures")


def test_pictures_without_a_browser_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    finished(tmp_path)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="neither chromium nor google-chrome is found"):
        report.write_pictures(tmp_path, tmp_path / "pictures")


def test_hostile_names_are_all_in_the_picker(tmp_path: Path) -> None:
    page = report.write_report(hostile(tmp_path)).read_text()
    assert len(re.findall(r'<option value="\d+">', page)) == 2 * len(HOSTILE)
