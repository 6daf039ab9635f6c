"""How sure an allocation was: planted similarities, as table, words, figure, page and lines of a terminal."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from reporting.made_up import console
from reporting.page_text import embedded
from reporting.report_folders import CLIENTS, FINALS, finished, on_halves, summary

from fedlease.core.types import Allocation
from fedlease.reporting.run import page as report
from fedlease.reporting.run.advice import advise
from fedlease.reporting.run.certainty import Nearness, certainty_table, certainty_words, nearness
from fedlease.reporting.run.figures_clients import allocation_figures
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.tables import certainty_lines
from fedlease.reporting.terminal import Terminal
from fedlease.server.events import Allocated


def allocated(out: Path) -> Allocation:
    found = read_run(on_halves(out)).grouping
    assert found is not None
    return found


def test_nearness_is_the_mean_over_the_clients_of_a_group_that_have_learnt(tmp_path: Path) -> None:
    near = nearness(allocated(tmp_path))
    assert near["a0"] == (Nearness(0, 0.95, 0.1), Nearness(1, 0.2, 0.05))
    # To a0 0.2 +- 0.05, to a1 0.4 +- 0.15; b0 is alone with its expert.
    own, other = near["b0"]
    assert own is None and other is not None
    assert (other.expert, other.similarity, other.error) == (0, pytest.approx(0.3), pytest.approx(0.1))
    assert near["b1"] == (None, None)


def test_the_table_tells_reliability_of_every_client_and_a_decision_by_its_evidence(tmp_path: Path) -> None:
    table = certainty_table(read_run(on_halves(tmp_path)))
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a0", "1", "0.50", "sure", "0.95 ± 0.10", "expert 2: 0.20 ± 0.05"],
        ["a1", "1", "0.25", "close call", "0.95 ± 0.10", "expert 2: 0.40 ± 0.15"],
        ["b0", "2", "0.38", "sure", "none", "expert 1: 0.30 ± 0.10"],
        ["b1", "3", "0.03", "not learnt yet", "unknown", "unknown"],
    ]
    words = certainty_words(read_run(tmp_path))
    assert words[1] == "The decision was sure for 2 of 4 clients."
    assert words[2] == "A close call, compatible with more than one grouping: a1."
    assert words[3].endswith("when the groups were made: b1.")


def test_the_picture_shows_corrected_similarities_and_leaves_the_unknown_empty(tmp_path: Path) -> None:
    (heat,) = allocation_figures(read_run(on_halves(tmp_path)))
    assert heat.id == "similarities" and "1 is the same task, 0 an unrelated one" in heat.summary
    empty = [None] * 4
    assert heat.data[0]["z"] == [[None, 0.95, 0.2, None], [0.95, None, 0.4, None], [0.2, 0.4, None, None], empty]
    assert heat.rows[0] == ("a0", "1.00 ± 0.00", "0.95 ± 0.10", "0.20 ± 0.05", "unknown")
    # Between: 0.2 and 0.4, each twice.
    assert "Mean within groups 0.95, between groups 0.30." in heat.summary


def test_the_page_has_table_and_picture_in_place_of_distances_and_silhouettes(tmp_path: Path) -> None:
    page = report.write_report(on_halves(tmp_path)).read_text()
    figures = embedded(page)["figures"]
    assert "similarities" in figures and not {"distances", "dendrogram", "silhouettes"} & set(figures)
    section = page.split('<section id="allocation">')[1].split("</section>")[0]
    assert "not learnt yet" in section and re.search(r"expert 2: 0\.40 ± 0\.15", section)


def test_where_nobody_has_learnt_there_is_a_table_and_no_empty_picture(tmp_path: Path) -> None:
    run = read_run(on_halves(tmp_path, (0, 0, 0, 0), unsure=list(CLIENTS)))
    table = certainty_table(run)
    assert table is not None and {row[3].text for row in table.rows} == {"not learnt yet"}
    assert allocation_figures(run) == []
    assert "similarities" not in embedded(report.write_report(tmp_path).read_text())["figures"]


def test_without_halves_nothing_of_it_is_shown(tmp_path: Path) -> None:
    run = read_run(finished(tmp_path))
    assert certainty_table(run) is None and certainty_words(run) == []
    assert "reliability" not in report.write_report(tmp_path).read_text().split('<section id="allocation">')[1].lower()


def test_who_has_not_learnt_is_told_once_with_what_became_of_it(tmp_path: Path) -> None:
    chose = "client 'b1', which had not learnt its task, joined b0, by the loss on its own rows"
    summary(on_halves(tmp_path), FINALS, warnings=[chose])
    about = [advice for advice in advise(read_run(tmp_path)) if "b1" in advice.text and "learnt" in advice.text]
    assert [advice.title for advice in about] == ["Not learnt yet"]
    assert about[0].text.endswith(chose)


def test_one_task_that_is_sure_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    same = {"corrected": [[1] * 4] * 4, "corrected_error": [[0] * 4] * 4, "unsure": [], "warnings": []}
    on_halves(tmp_path, (0, 0, 0, 0), **same)
    assert not {"One expert", "Not learnt yet"} & {advice.title for advice in advise(read_run(tmp_path))}


def test_the_terminal_has_a_line_on_groups_and_one_on_who_is_unsure(tmp_path: Path) -> None:
    to = console()
    Terminal(to)(Allocated("fedlease-plus", allocated(tmp_path)))
    text = to.export_text()
    assert "2 groups by corrected similarity, of 3 clients that have learnt enough" in text.splitlines()
    assert "1 client not learnt yet, alone for now: b1 (0.03)" in text.splitlines()
    assert "Experts are counted from 1 here" in text
    assert "ilhouette" not in text and "note" not in text


def test_who_could_not_be_halved_has_too_few_rows_and_nobody_unsure_needs_no_line(tmp_path: Path) -> None:
    grouping = allocated(tmp_path)
    few = replace(grouping, reliability={"a0": 0.5, "a1": 0.25, "b0": 0.375})
    assert certainty_lines(few)[1].endswith("b1 (too few rows)")
    assert len(certainty_lines(replace(grouping, unsure=()))) == 1
    assert certainty_lines(replace(grouping, unsure=tuple(CLIENTS))) == []
