"""GLUE from a folder of made-up files and from a stand-in for the hub."""

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest

from fedlease.config.choices import GlueTask
from fedlease.config.data import DataSettings
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.sources.glue import TASKS
from fedlease.errors import DataError


def row(task: str, number: int) -> dict[str, Any]:
    spec = TASKS[task]
    texts = {name: f"{task} {name} {number}" for name in (spec.text, spec.text_pair) if name}
    return {**texts, "label": number % len(spec.labels), "split": ["train", "validation"][number % 5 == 0]}


def write(folder: Path, task: str, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> Path:
    text = "".join(json.dumps(item) + "\n" for item in rows).encode()
    path = folder / f"{task}{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    return path


def load(path: Path | None, tasks: tuple[str, ...], seed: int = 0, **options: Any) -> Federation:
    return load_federation(
        DataSettings.model_validate({"source": "glue", "path": path, "tasks": tasks, **options}), seed
    )


def test_every_task_of_the_settings_has_its_columns() -> None:
    assert set(TASKS) == set(get_args(GlueTask))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_is_dealt_disjointly(tmp_path: Path, task: str, suffix: str) -> None:
    write(tmp_path, task, [row(task, number) for number in range(60)], suffix)
    federation = load(tmp_path, (task,), clients_per_task=3, train_rows=15, test_rows=5)
    assert list(federation.clients) == [f"{task}-0", f"{task}-1", f"{task}-2"]
    rows = [item for client in federation for item in (*client.train, *client.test)]
    assert len({item.text for item in rows}) == 60
    for item in rows:
        number = int(item.text.split()[-1])
        assert item.label == number % len(TASKS[task].labels)
        assert item.text_pair == (f"{task} {TASKS[task].text_pair} {number}" if TASKS[task].text_pair else None)
    assert federation.clients[f"{task}-0"].labels == TASKS[task].labels


def test_the_seed_determines_the_federation(tmp_path: Path) -> None:
    write(tmp_path, "rte", [row("rte", number) for number in range(40)])
    prints = [load(tmp_path, ("rte",), seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_duplicates_are_dropped_and_test_rows_left_out(tmp_path: Path) -> None:
    rows = [row("sst2", number) for number in range(40)]
    hidden = {"sentence": "hidden", "label": -1, "split": "test"}
    write(tmp_path, "sst2", [*rows, rows[0], rows[0], hidden])
    federation = load(tmp_path, ("sst2",), clients_per_task=2)
    assert federation.warnings == ("task 'sst2': 2 duplicate rows dropped",)
    assert sum(len(client.train) + len(client.test) for client in federation) == 40


def test_faults_of_all_files_are_reported(tmp_path: Path) -> None:
    sst2 = write(tmp_path, "sst2", [{"sentence": "x", "label": 2}, {"sentence": "", "label": 0}, {"sentence": "y"}])
    qnli = write(tmp_path, "qnli", [{"question": "q", "label": 0}])
    with pytest.raises(DataError) as caught:
        load(tmp_path, ("sst2", "qnli", "mrpc"))
    assert caught.value.faults == (
        f"{sst2}, line 1, column 'label': a label of sst2 must be an integer from 0 to 1, got 2",
        f"{sst2}, line 2, column 'sentence': a text must not be empty, got ''",
        f"{sst2}, line 3, column 'label': a label of sst2 must be an integer from 0 to 1, got None",
        f"{qnli}: no column 'sentence'; it has 'question', 'label'",
        f"data.tasks: task 'mrpc' needs one file, and {tmp_path} has no mrpc.jsonl "
        "(or .jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow)",
    )


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: '.*/nowhere' is not a folder of GLUE files such as sst2\.jsonl"):
        load(tmp_path / "nowhere", ("sst2",))
    write(tmp_path, "sst2", [])
    write(tmp_path, "sst2", [], ".jsonl.gz")
    with pytest.raises(DataError, match="task 'sst2' needs one file, and there are several: "):
        load(tmp_path, ("sst2",))


def test_a_task_of_one_label_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "cola", [{"sentence": f"s{n}", "label": 1} for n in range(40)])
    with pytest.raises(
        DataError, match="task 'cola': every row has the label 'acceptable'; at least two labels are needed"
    ):
        load(tmp_path, ("cola",))


def test_the_hub_gives_train_and_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(name: str, task: str, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, task, split))
        rows = [{**row(task, number), "premise": f"{split} {number}"} for number in range(30)]
        return [*rows, {**rows[0], "premise": ""}]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    federation = load(None, ("mnli",), clients_per_task=2)
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched")]
    assert sum(len(client.train) + len(client.test) for client in federation) == 60
    assert federation.warnings == ("task 'mnli': 2 rows of the hub with an empty text left out",)


def test_an_unreachable_hub_suggests_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nmore detail")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        load(None, ("sst2",))
    assert str(caught.value) == (
        "data.source: nyu-mll/glue 'sst2' cannot be loaded from the hub (no route); "
        "without a connection, set data.path to a folder with sst2.jsonl"
    )
