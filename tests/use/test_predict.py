"""Predictions are those of the loaded model, row by row, and bad rows write nothing."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small import WHOLE, FinishedRuns, own_rows, small_run

import fedlease
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.tables import read_table
from fedlease.errors import ConfigError, DataError
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import STDIN, predict, predict_file

TEXTS = ["zib", "a much longer text than the others here", "kulo mab", "nee nee nee"]


@pytest.fixture(scope="module")
def run(finished: FinishedRuns) -> OpenRun:
    return OpenRun(finished(**WHOLE).out)


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("pairs")
    own_rows(folder / "data")
    for file in sorted((folder / "data").rglob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, "text_pair": "other"}) + "\n" for row in rows))
    return OpenRun(small_run(folder / "r", baselines=[], rounds=0, data__path=str(folder / "data")).out)


def lines(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_predictions_are_the_loaded_models_softmax(run: OpenRun) -> None:
    client = "planted-1-0"
    found = predict(run, client, [Row(text, None, 0) for text in TEXTS])
    model, tokenizer = fedlease.load(run.out, client), fedlease.tokenizer(run.out)
    for text, prediction in zip(TEXTS, found, strict=True):
        batch = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**batch).logits[0].softmax(-1)
        labels = list(model.config.id2label.values())
        assert list(prediction["probabilities"]) == labels
        assert list(prediction["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert prediction["prediction"] == labels[int(expected.argmax())]
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert prediction["probability"] == max(prediction["probabilities"].values())


def test_clients_differ(run: OpenRun) -> None:
    rows = [Row(text, None, 0) for text in TEXTS]
    first, second = (predict(run, client, rows) for client in ("planted-0-0", "planted-1-1"))
    assert [p["probability"] for p in first] != [p["probability"] for p in second]


def test_jsonl_keeps_its_columns_and_order(run: OpenRun, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [{"id": i, "text": text} for i, text in enumerate(TEXTS)])
    told: list[tuple[int, int]] = []
    text = predict_file(run, "planted-0-0", file, on_rows=lambda done, total: told.append((done, total)))
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == list(enumerate(TEXTS))
    for row in rows:
        assert row["probability"] == row["probabilities"][row["prediction"]]
    assert told[-1] == (4, 4)


def test_a_csv_out_has_a_column_per_label(run: OpenRun, tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text('id,text\n7,"a, b"\n8,"two\nlines"\n')
    out = tmp_path / "new" / "out.csv"
    predict_file(run, "planted-0-0", file, out)
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(row["id"], row["text"]) for row in rows] == [("7", "a, b"), ("8", "two\nlines")]
    labels = run.client("planted-0-0").labels
    for row in rows:
        assert sum(float(row[f"probability of {label}"]) for label in labels) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == float(row[f"probability of {row['prediction']}"])


def test_a_csv_out_holds_no_formulas_and_reads_back_as_it_was(run: OpenRun, tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1.5", "- a", "@x", "'=quoted", "'plain", "\tx"]
    rows = [{"text": text, "=id": f"@{number}", "more": ["=x"]} for number, text in enumerate(texts)]
    out = tmp_path / "out.csv"
    predict_file(run, "planted-0-0", lines(tmp_path / "in.jsonl", rows), out)
    header, *cells = csv.reader(io.StringIO(out.read_text()))
    assert header[:3] == ["text", "'=id", "more"]
    assert [row[0] for row in cells] == [
        "'=HYPERLINK(1)", "+1", "-1.5", "'- a", "'@x", "''=quoted", "'plain", "'\tx"
    ]  # fmt: skip
    table = read_table(out, Faults())
    assert table is not None
    assert [(record.values["text"], record.values["=id"]) for record in table.records] == [
        (row["text"], row["=id"]) for row in rows
    ]


@pytest.mark.parametrize(
    "content", [b'{"text": "zib"}\n{"text": "mab"}\n', b"text\nzib\nmab\n", b"\xef\xbb\xbftext\nzib\nmab\n"]
)
def test_standard_input_is_json_lines_or_csv(content: bytes, run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    found = [json.loads(line) for line in predict_file(run, "planted-0-0", STDIN).splitlines()]
    assert [row["text"] for row in found] == ["zib", "mab"]
    expected = predict(run, "planted-0-0", [Row("zib", None, 0), Row("mab", None, 0)])
    assert [row["prediction"] for row in found] == [prediction["prediction"] for prediction in expected]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"note": "x"}], r"no column 'text'; it has 'note': the run has data\.columns\.text=text"),
        ([{"text": "x"}, {"text": " "}], r"line 2, column 'text': a text must not be empty"),
        ([{"text": "x"}, {"text": 5}], r"line 2, column 'text': a text must be a string, got 5"),
        ([{"text": "x", "prediction": "y"}], r"already has a column 'prediction', which would be overwritten"),
        ([], r"has no rows"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    rows: list[dict[str, object]], said: str, run: OpenRun, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=said):
        predict_file(run, "planted-0-0", lines(tmp_path / "in.jsonl", rows), out)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_pair_task_needs_the_second_text(pair_run: OpenRun, tmp_path: Path) -> None:
    assert pair_run.client("one").pairs is True
    with pytest.raises(DataError, match=r"no column 'text_pair'"):
        predict_file(pair_run, "one", lines(tmp_path / "a.jsonl", [{"text": "x"}]))
    with pytest.raises(DataError, match=r"line 1, column 'text_pair': is missing"):
        predict_file(pair_run, "one", lines(tmp_path / "b.jsonl", [{"text": "x"}, {"text": "x", "text_pair": "y"}]))
    text = predict_file(pair_run, "one", lines(tmp_path / "c.jsonl", [{"text": "x", "text_pair": "y"}]))
    assert json.loads(text)["prediction"] in pair_run.client("one").labels


def test_faults_of_the_call(run: OpenRun, tmp_path: Path) -> None:
    file = lines(tmp_path / "in.jsonl", [{"text": "x"}])
    with pytest.raises(ConfigError, match="received 'nobody'"):
        predict_file(run, "nobody", file)
    with pytest.raises(DataError, match="no such file"):
        predict_file(run, "planted-0-0", tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"out: must end in \.jsonl or \.csv, received .*out\.txt"):
        predict_file(run, "planted-0-0", file, tmp_path / "out.txt")
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(DataError, match=r"there\.csv exists"):
        predict_file(run, "planted-0-0", file, tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
