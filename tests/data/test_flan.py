"""FLAN from a folder of made-up files and from a stand-in for the hub."""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedlease.config.data import DataSettings
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.sources.flan import HUB_TASKS, PAPER
from fedlease.errors import DataError

OTHERS = ".jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow"


def row(category: str, name: str, **more: Any) -> dict[str, Any]:
    return {"instruction": f"{category} {name}", "output": f"say {name}", "task": "t", "category": category, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(item) + "\n" for item in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def folder(root: Path, train: int = 12, test: int = 6, categories: tuple[str, ...] = ("edit", "mood")) -> Path:
    for number, category in enumerate(categories):
        write(root / f"client_{number}.jsonl.gz", [row(category, f"train {n}") for n in range(train)])
        write(root / f"test_{category}.jsonl", [row(category, f"test {n}") for n in range(test)])
    return root


def load(path: Path | None, seed: int = 0, **options: Any) -> Federation:
    options = {"clients_per_task": 2, **options}
    return load_federation(DataSettings(source="flan", path=path, **options), seed, "generation")


def faults(path: Path | None, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return list(caught.value.faults)


def test_each_category_is_dealt_disjointly_to_its_clients(tmp_path: Path) -> None:
    federation = load(folder(tmp_path))
    assert list(federation.clients) == ["edit-0", "edit-1", "mood-0", "mood-1"]
    for client in federation:
        assert (client.task, client.labels) == (client.id[:-2], ())
        assert (len(client.train), len(client.test)) == (6, 3)
        assert all(item.text.startswith(f"{client.task} train ") for item in client.train)
        assert all(item.text.startswith(f"{client.task} test ") for item in client.test)
        assert all(item.response == f"say {item.text[5:]}" for item in (*client.train, *client.test))
    rows = [item.text for client in federation for item in (*client.train, *client.test)]
    assert len(rows) == len(set(rows)) == 36
    assert federation.warnings == ()


def test_row_numbers_categories_and_validation_rows_are_settings(tmp_path: Path) -> None:
    federation = load(
        folder(tmp_path), train_rows=5, test_rows=2, valid_fraction=0.4, categories=["mood"], clients_per_task=1
    )
    (client,) = federation
    assert (client.id, len(client.train), len(client.valid), len(client.test)) == ("mood-0", 3, 2, 2)
    assert {item.text for item in client.valid} <= {f"mood train {n}" for n in range(12)}


def test_the_seed_determines_the_federation(tmp_path: Path) -> None:
    folder(tmp_path)
    prints = [load(tmp_path, seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_several_files_of_a_category_are_pooled(tmp_path: Path) -> None:
    folder(tmp_path, categories=("edit",))
    write(tmp_path / "client_7.jsonl", [row("edit", f"more {n}") for n in range(4)])
    assert [len(client.train) for client in load(tmp_path)] == [8, 8]


def test_duplicates_and_train_prompts_that_are_tested_are_dropped(tmp_path: Path) -> None:
    folder(tmp_path, categories=("edit",))
    rows = [row("edit", f"train {n}") for n in range(12)]
    leak = {**row("edit", "test 0"), "output": "another answer"}
    write(tmp_path / "client_0.jsonl.gz", [*rows, rows[0], leak])
    federation = load(tmp_path)
    assert federation.warnings == (
        "category 'edit': 1 duplicate rows dropped",
        "category 'edit': 1 train row dropped because a test row has the same prompt",
    )
    assert {item.text for client in federation for item in client.train} == {item["instruction"] for item in rows}


def test_running_out_of_rows_is_an_error_for_every_category_and_split(tmp_path: Path) -> None:
    folder(tmp_path)
    remedy = "ask for fewer rows or clients, or set data.share_rows=true"
    assert faults(tmp_path, train_rows=7, test_rows=4, categories=("edit",)) == [
        "category 'edit': train rows run out: 2 clients (data.clients_per_task) x 7 rows (data.train_rows), but there "
        f"are 12 distinct rows; {remedy}",
        "category 'edit': test rows run out: 2 clients (data.clients_per_task) x 4 rows (data.test_rows), but there "
        f"are 6 distinct rows; {remedy}",
    ]
    assert faults(tmp_path, clients_per_task=7, categories=("edit",)) == [
        "category 'edit': test rows run out: 7 clients (data.clients_per_task) x at least 1 rows (data.test_rows), but "
        f"there are 6 distinct rows; {remedy}"
    ]
    assert faults(tmp_path, test_rows=7, share_rows=True)[0].endswith(
        "there are 6 distinct rows; a client cannot have a row twice: ask for fewer rows"
    )


def test_shared_rows_fill_what_is_missing_and_are_counted(tmp_path: Path) -> None:
    # 2 x 7 - 12 = 2 and 2 x 4 - 6 = 2 places are taken twice
    federation = load(folder(tmp_path, categories=("edit",)), train_rows=7, test_rows=4, share_rows=True)
    assert federation.warnings == (
        "2 train rows with two clients or more: 'edit-0', 'edit-1'",
        "2 test rows with two clients or more: 'edit-0', 'edit-1'",
        "category 'edit': 12 train rows for 2 clients, so shared rows fill 2 places",
        "category 'edit': 6 test rows for 2 clients, so shared rows fill 2 places",
    )
    for client in federation:
        assert (len(set(client.train)), len(set(client.test))) == (7, 4)
    assert [len(client.test) for client in load(tmp_path, clients_per_task=7, share_rows=True)] == [1] * 7


def test_sharing_is_used_only_when_rows_run_out(tmp_path: Path) -> None:
    folder(tmp_path)
    assert load(tmp_path, share_rows=True).fingerprint() == load(tmp_path).fingerprint()


def test_faults_of_the_folder(tmp_path: Path) -> None:
    where = tmp_path / "none"
    assert faults(where) == [f"data.path: '{where}' is not a folder of FLAN files such as client_0.jsonl"]
    where.mkdir()
    assert faults(where) == [f"data.path: '{where}' has no client_0.jsonl, client_1.jsonl, ... (or {OTHERS})"]
    folder(tmp_path)
    (tmp_path / "test_mood.jsonl").unlink()
    assert faults(tmp_path) == [
        f"data.path: category 'mood' has no test rows: no {tmp_path}/test_mood.jsonl (or {OTHERS})"
    ]
    assert list(load(tmp_path, categories=("edit",)).clients) == ["edit-0", "edit-1"]
    assert faults(tmp_path, categories=("edit", "sport")) == [
        f"data.categories: {tmp_path} has no category 'sport'; it has edit, mood"
    ]
    write(tmp_path / "client_0.jsonl", [])
    assert faults(tmp_path)[0] == (
        f"data.path: rows of client_0 are in several files: {tmp_path}/client_0.jsonl, {tmp_path}/client_0.jsonl.gz"
    )


def test_faults_of_files_name_the_line(tmp_path: Path) -> None:
    folder(tmp_path)
    write(tmp_path / "client_2.jsonl", [row("a", "1"), row("b", "2")])
    write(tmp_path / "client_3.jsonl", [row("c/d", "1")])
    write(tmp_path / "client_4.jsonl", [{"instruction": "x", "output": "y"}])
    write(tmp_path / "client_5.jsonl", [])
    write(tmp_path / "client_6.jsonl", [row("e", "1", output="")])
    assert faults(tmp_path) == [
        f"{tmp_path}/client_2.jsonl, line 2, column 'category': the rows of a file must have one category, here 'a', "
        "got 'b'",
        f"{tmp_path}/client_3.jsonl, line 1, column 'category': category 'c/d' must not contain /, \\, NUL or another "
        "control character: clients get its name",
        f"{tmp_path}/client_4.jsonl: no column 'category'; it has 'instruction', 'output'",
        f"{tmp_path}/client_5.jsonl: has no rows",
        f"{tmp_path}/client_6.jsonl, line 1, column 'output': a response must not be empty, got ''",
    ]


def test_faults_of_test_files(tmp_path: Path) -> None:
    folder(tmp_path)
    write(tmp_path / "test_edit.jsonl", [row("edit", "1"), row("mood", "2")])
    write(tmp_path / "test_mood.jsonl", [])
    assert faults(tmp_path) == [
        f"{tmp_path}/test_edit.jsonl, line 2, column 'category': the rows of a file must have one category, here "
        "'edit', got 'mood'",
        f"{tmp_path}/test_mood.jsonl: has no rows",
    ]
    write(tmp_path / "test_edit.jsonl", [{"prompt": f"p {n}", "response": "r"} for n in range(2)])
    assert [client.test[0].response for client in load(tmp_path, categories=("edit",))] == ["r", "r"]


def test_the_hub_gives_the_papers_categories_from_one_file_per_task_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(name: str, *, data_files: dict[str, str], split: str) -> list[dict[str, Any]]:
        asked.append((name, data_files[split]))
        (file,) = data_files.values()
        rows = [{"inputs": f"{file} {n}", "targets": "yes", "task": "t"} for n in range(8)]
        return [*rows, {"inputs": "", "targets": "x", "task": "t"}, {"inputs": "x", "targets": " ", "task": "t"}]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    federation = load(None)
    assert [client.id for client in federation] == sorted(f"{name}-{n}" for name in PAPER for n in range(2))
    assert all((len(client.train), len(client.test)) == (4, 4) for client in federation)
    assert asked[:2] == [
        ("Muennighoff/flan", "train/fix_punct_10templates_train.jsonl"),
        ("Muennighoff/flan", "test/fix_punct_10templates_test.jsonl"),
    ]
    assert len(asked) == 8
    assert "category 'sentiment': 2 train rows of the hub with an empty text left out" in federation.warnings
    assert list(load(None, categories=("paraphrase",)).clients) == ["paraphrase-0", "paraphrase-1"]
    assert asked[-2][1] == "train/glue_qqp_10templates_train.jsonl"


def test_the_docs_name_what_is_taken_from_the_hub() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE)) == dict(HUB_TASKS)
    assert tuple(HUB_TASKS)[: len(PAPER)] == PAPER
    assert ", ".join(PAPER) in (DataSettings.model_fields["categories"].description or "")


def test_a_category_that_the_hub_does_not_stand_for_is_an_error() -> None:
    assert faults(None, categories=("sport",)) == [
        f"data.categories: 'sport' is not one of those taken from Muennighoff/flan: {', '.join(HUB_TASKS)}"
    ]


def test_an_unreachable_hub_suggests_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nmore detail")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert faults(None) == [
        "data.source: Muennighoff/flan train/fix_punct_10templates_train.jsonl cannot be loaded from the hub (no "
        "route); without a connection, set data.path to a folder with client_0.jsonl, ... and "
        "test_text_formatting.jsonl"
    ]


ROWS = os.environ.get("FEDLEASE_FLAN_ROWS")


@pytest.mark.skipif(not ROWS, reason="FEDLEASE_FLAN_ROWS does not name a folder of FedDPA's FLAN files")
def test_real_files_are_dealt(tmp_path: Path) -> None:
    federation = load(Path(str(ROWS)), train_rows=100, test_rows=50)
    tasks = {client.task for client in federation}
    assert len(tasks) >= 2 and {len(client.train) for client in federation} == {100}
    rows = [item.content for client in federation for item in (*client.train, *client.test)]
    assert len(rows) == len(set(rows)) == 2 * len(tasks) * 150


@pytest.mark.skipif(not ROWS, reason="FEDLEASE_FLAN_ROWS does not name a folder of FedDPA's FLAN files")
def test_real_files_are_clients_of_a_folder_too(tmp_path: Path) -> None:
    for number, file in enumerate(sorted(Path(str(ROWS)).glob("client_*"))):
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "train.jsonl").write_bytes(b"".join(lines[:-20]))
        (tmp_path / str(number) / "test.jsonl").write_bytes(b"".join(lines[-20:]))
    federation = load_federation(DataSettings(path=tmp_path), 0, "generation")
    assert len({client.task for client in federation}) == len(federation) >= 2
