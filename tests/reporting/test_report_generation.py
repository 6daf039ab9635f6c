"""The page of a run that writes text: its own words, no labels and heads, answers to read, rounds without scores."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from reporting.page_text import embedded, own_text
from reporting.report_folders import (
    CLIENTS,
    IMAGE,
    SCRIPT,
    finished,
    generated,
    hostile_samples,
    put,
    sample,
    steps,
)

from fedlease.errors import RunFolderError
from fedlease.reporting.drawing import clean
from fedlease.reporting.run.advice import advise
from fedlease.reporting.run.figures_run import score_figures
from fedlease.reporting.run.page import write_report
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.samples import LONGEST, MOST_LINES, Passage, shown_samples
from fedlease.reporting.run.tables import bytes_table, client_table, task_table
from fedlease.reporting.run.verdict import conclude
from fedlease.reporting.run.words import facts, headline, score_words
from fedlease.tasks.metric_words import of_metric


def page_of(out: Path) -> str:
    """The page as a person reads it."""
    text = re.sub(r"<(script|style)>.*?</\1>", "", write_report(out).read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def passages(out: Path, text: str) -> list[Passage]:
    """How a text is shown as the prompt, and as the main method's answer."""
    put(out / "samples.json", {"a0": [sample(text, "r", "b", text)]})
    shown = shown_samples(read_run(out))[0].samples[0]
    return [shown[0], shown[3]]


class TestWords:
    def test_each_kind_has_its_own(self, tmp_path: Path) -> None:
        # Majority 50 %; the lowest client of both kinds, b1, ends at 50 % too.
        for made, own, foreign in (
            (finished, ("accuracy", "majority class", "naming the most frequent class", "Heads"), "ROUGE"),
            (generated, ("ROUGE-1", "most frequent answer", "giving the most frequent answer"), "class "),
        ):
            text = page_of(made(tmp_path / made.__name__))
            assert all(word in text for word in own)
            assert foreign not in text and "rouge1" not in text

    def test_a_run_that_writes_text_has_no_heads_and_no_labels(self, tmp_path: Path) -> None:
        run = read_run(generated(tmp_path))
        assert "Heads" not in dict(facts(run)) and "heads" not in page_of(tmp_path)
        assert dict(facts(run))["Task"] == "text generation, answers of at most 64 tokens, scored by ROUGE-1"
        table = bytes_table(run)
        assert table is not None and table.header[-1] == "saved"
        assert all(len(row) == len(table.header) for row in table.rows)

    def test_the_result_is_in_the_words_of_its_metric(self, tmp_path: Path) -> None:
        run = read_run(generated(tmp_path))
        said = headline(run)
        assert said[0] == "fedlease reaches a mean ROUGE-1 of 70.0 % over 4 clients."
        assert said[2] == "Always giving the most frequent answer would get 50.0 %, the untrained model 25.0 %."
        assert said[3] == "The lowest client is b1, with 50.0 %."
        (advice,) = [advice for advice in advise(run) if advice.title == "No better than guessing"]
        assert advice.text.endswith("no higher than always giving the most frequent answer.")
        assert "macro F1" not in advice.todo

    def test_further_means_are_those_the_summaries_have(self, tmp_path: Path) -> None:
        table = task_table(read_run(generated(tmp_path)))
        assert table is not None and table.caption == "ROUGE-1 in % on each client's own test rows"
        assert [[cell.text for cell in row] for row in table.foot[-3:]] == [
            ["mean ROUGE-L", "", "37.5", "37.5", ""],
            ["mean exact match", "", "12.5", "12.5", ""],
            ["mean accuracy of short answers", "", "25.0", "25.0", ""],
        ]

    def test_columns_are_named_by_the_metric(self, tmp_path: Path) -> None:
        for made, name in ((generated, "most frequent answer"), (finished, "majority class")):
            run = read_run(made(tmp_path / name))
            assert client_table(run, conclude(run)).header[5] == name

    def test_figures_are_named_by_the_metric(self, tmp_path: Path) -> None:
        means = score_figures(read_run(generated(tmp_path)))[0]
        assert means.layout["yaxis"]["title"]["text"] == "mean ROUGE-1, %"
        assert means.layout["annotations"][0]["text"] == "most frequent answer 50.0"

    def test_a_metric_nobody_knows_goes_by_its_key(self) -> None:
        assert (of_metric("new").name, of_metric("new").majority) == ("new", "most frequent answer")


class TestRoundsWithoutScores:
    def test_figures_say_so_and_methods_stand_side_by_side(self, tmp_path: Path) -> None:
        means, tasks = score_figures(read_run(generated(tmp_path, scored=False)))
        # All end after the same passes: over these their points would lie on each other.
        assert [(trace["x"], trace["y"]) for trace in means.data] == [(["fedlease"], [70]), (["fedit"], [60])]
        assert means.summary.endswith("Rounds were not scored: these are the final scores.")
        assert [trace["x"] for trace in tasks.data[:2]] == [["mood"], ["news"]]
        assert tasks.summary == "mood ends at 55.0 %. news ends at 85.0 %."
        for figure in (means, tasks):
            assert figure.layout["xaxis"]["title"]["text"] == "final scores: rounds were not scored"

    def test_a_picked_client_gets_a_place_beside_the_tasks(self, tmp_path: Path) -> None:
        data = embedded(write_report(generated(tmp_path / "a", scored=False)).read_text())["clients"]
        assert [(client["x"], client["at"], client["y"]) for client in data[:1]] == [([5], ["a0"], [90])]
        scored = embedded(write_report(generated(tmp_path / "b")).read_text())["clients"]
        assert scored[0]["x"] == [0, 3, 5] and "at" not in scored[0]

    def test_the_page_says_why_there_are_no_curves(self, tmp_path: Path) -> None:
        assert "generation.score_rounds is false" in page_of(generated(tmp_path / "a", scored=False))
        assert "generation.score_rounds" not in page_of(generated(tmp_path / "b"))

    def test_a_run_that_goes_on_has_no_empty_axes(self, tmp_path: Path) -> None:
        generated(tmp_path, scored=False, samples=False)
        for name in ("summary.json", "baselines/fedit/summary.json", "baselines/fedit/rounds.jsonl"):
            (tmp_path / name).unlink()
        run = read_run(tmp_path)
        assert score_figures(run) == []
        assert headline(run) == [
            "fedlease has no final scores yet, and rounds are not scored in this run. 2 steps done."
        ]
        assert "so that there are no curves" in score_words(run)
        assert "final scores yet" in page_of(tmp_path)


class TestSamples:
    def test_a_row_is_shown_once_with_the_answers_of_all_methods(self, tmp_path: Path) -> None:
        shown = shown_samples(read_run(generated(tmp_path)))
        assert [(entry.client, entry.facts) for entry in shown[:1]] == [("a0", "news, expert 1, ROUGE-1 90.0 %")]
        (row,) = shown[0].samples
        assert row[0] == Passage("Prompt", ("Where is Oslo?",), "")
        assert [(answer.name, answer.lines) for answer in row[1:]] == [
            ("Reference", ("In Norway.",)),
            ("Untrained model", ("Oslo Oslo",)),
            ("fedlease", ("fedlease says Norway",)),
            ("fedit", ("fedit says Norway",)),
        ]

    def test_the_section_is_folded_by_client(self, tmp_path: Path) -> None:
        page = own_text(write_report(generated(tmp_path)).read_text())
        section = page.partition('<section id="samples">')[2].partition("</section>")[0]
        assert '<a href="#samples">Answers</a>' in page
        assert section.count("<details") == len(CLIENTS) and "<details open" not in section
        assert section.count("fedit says Norway") == len(CLIENTS)
        assert "generation.samples=0" in section

    @pytest.mark.parametrize("content", [None, {}, {client: [] for client in CLIENTS}])
    def test_without_samples_there_is_no_section(self, tmp_path: Path, content: Any) -> None:
        generated(tmp_path, samples=False)
        if content is not None:
            put(tmp_path / "samples.json", content)
        for folder in (tmp_path, finished(tmp_path / "classes")):
            page = own_text(write_report(folder).read_text())
            assert 'id="samples"' not in page and "#samples" not in page and 'class="sample' not in page

    def test_an_answer_to_another_row_is_not_set_beside_this_one(self, tmp_path: Path) -> None:
        generated(tmp_path)
        fedit = tmp_path / "baselines" / "fedit" / "samples.json"
        put(fedit, {"a0": [sample("Another?", "In Norway.", "b", "wrong row")], "a1": []})
        rows = {entry.client: entry.samples[0][-1] for entry in shown_samples(read_run(tmp_path))}
        assert set(rows.values()) == {Passage("fedit", (), "not on file")} and len(rows) == len(CLIENTS)

    def test_a_baseline_alone_has_its_samples_shown(self, tmp_path: Path) -> None:
        (generated(tmp_path) / "samples.json").unlink()
        answers = shown_samples(read_run(tmp_path))[0].samples[0][1:]
        assert [(a.name, a.note) for a in answers[2:]] == [("fedlease", "not on file"), ("fedit", "")]

    @pytest.mark.parametrize(
        ("text", "note"),
        [("", "empty"), ("\n ", "empty but for 2 characters of white space"), (" ", "empty but for 1 character of")],
    )
    def test_an_empty_text_is_said_to_be(self, tmp_path: Path, text: str, note: str) -> None:
        for passage in passages(generated(tmp_path), text):
            assert passage.lines == () and passage.note.startswith(note)

    def test_lines_stay_lines(self, tmp_path: Path) -> None:
        assert passages(generated(tmp_path), "a\r\n\tb\n\nc")[0] == Passage("Prompt", ("a", "    b", "", "c"), "")
        assert 'auto">a<br>    b<br><br>c</dd>' in own_text(write_report(tmp_path).read_text())

    def test_a_long_text_is_cut_and_says_so(self, tmp_path: Path) -> None:
        generated(tmp_path)
        assert [p.note for p in passages(tmp_path, "x" * LONGEST)] == ["", ""]
        for passage in passages(tmp_path, "x" * (LONGEST + 1)):
            assert passage.lines == ("x" * LONGEST,)
            assert passage.note == f"cut: {LONGEST:,} of {LONGEST + 1:,} characters shown"
        # n lines of one character have n - 1 line breaks between them.
        (passage, _) = passages(tmp_path, "\n".join("y" * (MOST_LINES + 1)))
        assert len(passage.lines) == MOST_LINES
        assert passage.note == f"cut: {2 * MOST_LINES - 1} of {2 * MOST_LINES + 1} characters shown"
        assert passage.note in page_of(tmp_path)

    def test_text_that_tries_to_be_markup_stays_text(self, tmp_path: Path) -> None:
        page = write_report(hostile_samples(tmp_path)).read_text()
        assert IMAGE not in page and SCRIPT not in page and "<b onmouseover" not in page
        assert html.escape(SCRIPT) in page and "{{ 7 * 7 }}" in page
        assert "\x1b" not in page and "\u202e" not in page
        assert page.count("<script") == 3
        assert "turn\N{REPLACEMENT CHARACTER}ed" in page

    def test_scripts_that_join_letters_are_spelt_right(self) -> None:
        # Persian writes one word with a non-joiner; the mark that turns the direction goes.
        assert clean("می\u200cروم \u202e\u200d") == "می\u200cروم \N{REPLACEMENT CHARACTER}\u200d"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[]", "expected a JSON object"),
            ("{", "is damaged: JSONDecodeError"),
            ('{"a0": {}}', "a0 must be a valid list, received dict"),
            ('{"a0": [3]}', "a0.0 must be a valid object, received int"),
            ('{"a0": [{"prompt": "p"}]}', "a0.0.reference is missing"),
            (
                json.dumps({"a0": [sample("p", "r", "b", "a") | {"answer": None}]}),
                "a0.0.answer must be a valid string, received NoneType",
            ),
            ('{"nobody": []}', "the run has no client 'nobody'"),
        ],
    )
    @pytest.mark.parametrize("where", [".", "baselines/fedit"])
    def test_damage_is_named(self, tmp_path: Path, content: str, said: str, where: str) -> None:
        path = generated(tmp_path) / where / "samples.json"
        path.write_text(content)
        with pytest.raises(RunFolderError, match=rf"samples\.json .*{said}") as error:
            write_report(tmp_path)
        assert str(path) in str(error.value)

    def test_samples_of_a_run_that_goes_on_are_shown(self, tmp_path: Path) -> None:
        generated(tmp_path)
        fedit = tmp_path / "baselines" / "fedit"
        for name in ("summary.json", "samples.json"):
            (fedit / name).unlink()
        steps(fedit, [])
        assert [a.name for a in shown_samples(read_run(tmp_path))[0].samples[0]][3:] == ["fedlease"]
