"""A labelled file is scored as it is predicted."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from small import own_rows

import fedlease
from fedlease.config.settings import Settings
from fedlease.data.reading.rows import Record, Table
from fedlease.errors import DataError
from fedlease.reporting.file_scores import render_file_scores
from fedlease.tasks.classification import Classification
from fedlease.tasks.generation import Generation
from fedlease.use.file_scores import FileScores, score_file
from fedlease.use.open_run import KnownClient, OpenRun
from fedlease.use.predict import predict_file

KNOWN = KnownClient("radiology", "default", ("normal", "urgent"), False, False)


def scored(labels: list[Any], guesses: list[str], known: KnownClient = KNOWN, *, typed: bool = True) -> Any:
    run: Any = SimpleNamespace(settings=Settings(), task=Classification(metric="macro_f1"))
    records = tuple(Record(line, {"text": "x", "label": label}) for line, label in enumerate(labels, 1))
    table = Table(Path("new.csv"), ("text", "label"), records, typed)
    return score_file(run, known, table, [{"prediction": guess} for guess in guesses])


def test_scores_are_those_of_the_rows_that_have_a_label() -> None:
    found = scored(["normal"] * 48 + ["urgent"] * 2 + [None, " "], ["normal"] * 52)
    assert (found.rows, found.scored, found.unknown, found.metric) == (52, 50, (), "macro_f1")
    assert found.metrics == {"accuracy": 0.96, "macro_f1": pytest.approx(48 / 98), "mcc": 0.0}
    assert found.classes.confusion == [[48, 0], [2, 0]]


def test_a_label_that_the_model_does_not_know_counts_as_wrong_and_is_named() -> None:
    found = scored(["normal", "other", "Urgent"], ["normal", "normal", "urgent"])
    assert found.unknown == ("Urgent", "other") and found.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.classes.labels == ["normal", "urgent", "Urgent", "other"]


def test_labels_are_read_as_those_of_the_run_were() -> None:
    known = KnownClient("a", "default", ("0", "1"), False, False)
    assert scored(["1.0", "0", " 1"], ["1", "0", "1"], known, typed=False).metrics["accuracy"] == 1.0
    assert scored([1, 0, True], ["1", "0", "1"], known).unknown == ("true",)


def test_without_labels_there_is_nothing_to_score() -> None:
    assert scored([None, ""], ["normal", "normal"]) is None
    assert Generation().grade(Table(Path("x"), ("label",), (), typed=True), Settings().data, (), []) is None


def test_what_is_printed_begins_with_what_is_never_predicted() -> None:
    found = scored(["normal"] * 48 + ["urgent"] * 2 + ["[odd]"], ["normal"] * 51)
    console = Console(file=io.StringIO(), width=80)
    render_file_scores(found.content, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "Never predicted, of its rows: 'urgent' (2), '[odd]' (1)"
    assert lines[1].startswith("radiology: macro F1 32.3 %, accuracy 94.1 %, MCC 0.0 % on 51 rows")
    assert lines[2] == "note the client's model does not know '[odd]': such rows count as wrong"
    assert max(map(len, lines)) <= 80 and any("urgent" in line and "0.0" in line for line in lines[3:])


def test_a_file_of_a_run_is_scored_as_the_run_scored_it(tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    run = fedlease.run(preset="smoke", out=tmp_path / "run", threads=1, device="cpu", rounds=0, baselines=[], **{
        "data.path": rows})  # fmt: skip
    found: list[FileScores] = []
    out = tmp_path / "scores.json"
    predict_file(OpenRun(run.out), "two", rows / "two/test.jsonl", scores=out, on_scores=found.append)
    expected = run.summary["per_client"]["two"]
    assert found[0].metrics == {name: expected[name] for name in ("accuracy", "macro_f1", "mcc")}
    written = json.loads(out.read_text())
    assert written["classes"] == run.summary["classes"]["two"] and written["accuracy"] == expected["accuracy"]
    with pytest.raises(DataError, match=r"^scores: .*scores.json exists; choose another file"):
        predict_file(OpenRun(run.out), "two", rows / "two/test.jsonl", scores=out)
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match=r"^scores: .*plain.jsonl has nothing to score by .*data.columns.label=label"):
        predict_file(OpenRun(run.out), "two", plain, scores=tmp_path / "other.json")
