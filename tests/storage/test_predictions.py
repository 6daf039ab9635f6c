"""What final models predict for test rows is in the run folder, and where rows are elsewhere it is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import own_rows, small_run, small_settings

import fedlease
from fedlease.data.federation import ClientData, Row
from fedlease.storage.predictions import lines_of
from fedlease.storage.run_files import RunFiles
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict_file


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_line_names_the_row_its_place_label_and_prediction() -> None:
    place = (Path("rows/ward/test.csv"), 7)
    data = ClientData("ward", "default", ("no", "yes"), (), (), (Row("x", None, 1, place=place), Row("y", None, 0)))
    columns = {"prediction": [0, 0], "probability": [0.75, 0.5]}
    assert list(lines_of(data, columns, Path("rows"))) == [
        {
            "client": "ward", "row": 0, "file": "ward/test.csv", "line": 7, "label": "yes", "prediction": "no",
            "probability": 0.75,
        },
        {"client": "ward", "row": 1, "label": "no", "prediction": "no", "probability": 0.5},
    ]  # fmt: skip
    assert list(lines_of(data, {}, None)) == []


def test_kept_predictions_are_those_that_the_scores_are_of(tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    run = fedlease.run(preset="smoke", out=tmp_path / "run", threads=1, device="cpu", rounds=1, baselines=["local"], **{
        "data.path": rows})  # fmt: skip
    for method, folder in (("fedlease", run.out), ("local", run.out / "baselines/local")):
        found = lines(folder)
        for client, row in run.summaries[method]["per_client"].items():
            own = [line for line in found if line["client"] == client]
            assert [line["row"] for line in own] == list(range(row["num_test"]))
            assert sum(line["label"] == line["prediction"] for line in own) / len(own) == row["accuracy"]
            written = (rows / own[0]["file"]).read_text().splitlines()
            assert all(json.loads(written[line["line"] - 1])["label"] == line["label"] for line in own)
    # The model that is loaded from the folder says the same.
    again = predict_file(OpenRun(run.out), "one", rows / "one/test.jsonl")
    for line, said in zip(lines(run.out), map(json.loads, again.splitlines()), strict=False):
        if line["client"] == "one":
            assert (line["prediction"], line["probability"]) == (said["prediction"], pytest.approx(said["probability"]))
    assert "predictions.jsonl" in RunFiles(run.out).names()


def test_they_are_not_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", keep_predictions=False, baselines=[], rounds=1)
    assert not list(run.out.rglob("predictions.jsonl"))


def test_answers_are_kept_with_their_responses(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", task="generation", rounds=1, baselines=[], data__max_tokens=48,
                    data__clients_per_task=1)  # fmt: skip
    found = lines(run.out)
    samples = json.loads((run.out / "samples.json").read_text())
    for client, shown in samples.items():
        own = [line for line in found if line["client"] == client]
        assert [(s["reference"], s["answer"]) for s in shown] == [
            (line["response"], line["prediction"]) for line in own[: len(shown)]
        ]


def test_over_flower_they_stay_with_the_nodes_which_keep_their_own(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import over_memory

    sent: list[str] = []

    def listen(message: Any, reply: Any) -> Any:
        sent.extend(str(record["tree"]) for name, record in reply.content.config_records.items() if name == "fedlease")
        return reply

    settings = small_settings(baselines=[], rounds=1, data__clients_per_task=1)
    over_memory(
        settings, tmp_path / "run", prepare=lambda grid: grid.faults.append(listen), hand_over=False,
        **{"state-dir": str(tmp_path / "state")},
    )  # fmt: skip
    assert not list((tmp_path / "run").rglob("predictions.jsonl"))
    assert sent and not any("probability" in text or '"prediction"' in text for text in sent)
    own = sorted((tmp_path / "state").rglob("predictions.jsonl"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert len(own) == len(summary["per_client"]) == 4
    for path in own:
        found = lines(path.parent)
        (client,) = {line["client"] for line in found}
        accuracy = sum(line["label"] == line["prediction"] for line in found) / len(found)
        assert accuracy == summary["per_client"][client]["accuracy"]
