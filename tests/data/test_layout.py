"""Files as people have them: one per client, pieces of the hub, saved data sets; and rows held out for test."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from fedlease.config.data import DataSettings, LimitSettings
from fedlease.data.dealing import generator, hold_out
from fedlease.data.faults import Faults
from fedlease.data.federation import Federation, Row
from fedlease.data.load import load_federation
from fedlease.data.reading.tables import read_table
from fedlease.data.sources.folder import load_client
from fedlease.data.sources.layout import site_files, split_files
from fedlease.errors import DataError


def rows(client: str, count: int = 10) -> list[dict[str, Any]]:
    return [{"text": f"{client} {n}", "label": ["no", "yes"][n % 2]} for n in range(count)]


def csv(path: Path, found: list[dict[str, Any]], mark: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [mark.join(found[0]), *(mark.join(map(str, row.values())) for row in found)]
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path: Path, **options: Any) -> Federation:
    return load_federation(DataSettings(path=path, **options), 0)


def faults(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return list(caught.value.faults)


def sizes(federation: Federation) -> dict[str, tuple[int, int, int]]:
    return {client.id: (len(client.train), len(client.valid), len(client.test)) for client in federation}


@pytest.mark.parametrize("pattern", ["", "*.csv", "site-[ab].*"])
def test_a_file_is_a_client_whose_test_rows_are_held_out(pattern: str, tmp_path: Path) -> None:
    for client in "ab":
        csv(tmp_path / f"site-{client}.csv", rows(client), mark=";")
    (tmp_path / ".site-c.csv").write_text("no client")
    (tmp_path / "notes.txt").write_text("no rows")
    found = load(tmp_path / pattern if pattern else tmp_path)
    assert sizes(found) == {"site-a": (8, 0, 2), "site-b": (8, 0, 2)}
    assert f"{tmp_path}/site-a.csv, {tmp_path}/site-b.csv: read with ';' between cells" in found.warnings[0]


def test_a_file_of_a_client_may_have_a_split_column_and_may_be_one_of_several_splits(tmp_path: Path) -> None:
    split = [{**row, "split": ["train", "validation", "test"][n % 3]} for n, row in enumerate(rows("a", 12))]
    csv(tmp_path / "a.csv", split)
    csv(tmp_path / "b_train.csv", rows("b"))
    csv(tmp_path / "b_test.csv", rows("new", 4))
    csv(tmp_path / "speed-test.csv", rows("c"))  # nothing else is called speed-train
    assert sizes(load(tmp_path)) == {"a": (4, 4, 4), "b": (10, 0, 4), "speed-test": (8, 0, 2)}


def test_two_files_of_one_client_are_a_fault(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", rows("a"))
    csv(tmp_path / "a.tsv", rows("a"), mark="\t")
    csv(tmp_path / "b.csv", rows("b"))
    csv(tmp_path / "b_train.csv", rows("b"))
    assert faults(tmp_path) == [
        f"client 'a': rows are in several files: {tmp_path}/a.csv, {tmp_path}/a.tsv",
        f"client 'b': rows are in several files: {tmp_path}/b.csv, {tmp_path}/b_train.csv",
    ]


def test_a_client_column_in_a_file_of_one_client_is_told(tmp_path: Path) -> None:
    for client in "ab":
        csv(tmp_path / f"{client}.csv", [{**row, "client": "ward"} for row in rows(client)])
    found = load(tmp_path)
    assert [*found.clients] == ["a", "b"]
    rule = "is not read, since all its rows are this client's"
    assert f"client 'a': column 'client' of {tmp_path}/a.csv {rule}" in found.warnings


def test_patterns_that_name_nothing_are_faults(tmp_path: Path) -> None:
    assert faults(tmp_path / "*.csv") == [f"data.path: no file of rows matches '{tmp_path}/*.csv'"]
    assert faults(tmp_path / "none" / "*.csv") == [f"data.path: '{tmp_path}/none/*.csv' does not exist"]
    assert faults(tmp_path / "a.csv") == [f"data.path: '{tmp_path}/a.csv' does not exist"]


def parquet(path: Path, found: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)


@pytest.mark.parametrize("inner", ["", "data"])
def test_pieces_of_the_hub_are_one_data_set_with_a_client_column_or_a_client(inner: str, tmp_path: Path) -> None:
    of_all = [{**row, "client": client} for client in "ab" for row in rows(client)]
    tests = [{"text": f"new {client} {n}", "label": "yes", "client": client} for client in "ab" for n in range(3)]
    for folder in (tmp_path / "whole" / inner, tmp_path / "sites" / "one" / inner):
        parquet(folder / "train-00000-of-00002.parquet", of_all[:7])
        parquet(folder / "train-00001-of-00002.parquet", of_all[7:])
        parquet(folder / "validation-00000-of-00001.parquet", tests[:2] + tests[3:4])
        parquet(folder / "test-00000-of-00001.parquet", tests)
    assert sizes(load(tmp_path / "whole")) == {"a": (10, 2, 3), "b": (10, 1, 3)}
    assert sizes(load(tmp_path / "sites")) == {"one": (20, 3, 6)}
    assert len(load_client(tmp_path / "whole", "b", DataSettings(), 0).train) == 20


def test_a_piece_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    parquet(tmp_path / "a/train-00000-of-00003.parquet", rows("a"))
    parquet(tmp_path / "a/train-00002-of-00003.parquet", rows("a"))
    (fault,) = faults(tmp_path)
    assert fault.startswith("train rows are in 3 files, and number 1 is missing: there are ")


NAMED = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})


def saved(found: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(found, features=NAMED)


def test_saved_data_sets_are_clients_with_or_without_splits_and_keep_the_names_of_labels(tmp_path: Path) -> None:
    saved(rows("a")).save_to_disk(tmp_path / "a", num_shards=2)
    splits = {"train": saved(rows("b")), "validation": saved(rows("v", 2)), "test": saved(rows("new", 4))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "b")
    found = load(tmp_path)
    assert sizes(found) == {"a": (8, 0, 2), "b": (10, 2, 4)}
    assert {client.labels for client in found} == {("no", "yes")}


@pytest.mark.parametrize("split", [False, True])
def test_a_saved_data_set_with_a_client_column_is_a_federation(split: bool, tmp_path: Path) -> None:
    of_all = datasets.Dataset.from_list([{**row, "client": client} for client in "ab" for row in rows(client)])
    tests = datasets.Dataset.from_list([{"text": f"new {c}", "label": "yes", "client": c} for c in "ab"])
    whole = datasets.DatasetDict({"train": of_all, "test": tests}) if split else of_all
    whole.save_to_disk(tmp_path / "saved")
    assert sizes(load(tmp_path / "saved")) == (
        {"a": (10, 0, 1), "b": (10, 0, 1)} if split else dict.fromkeys("ab", (8, 0, 2))
    )


def test_labels_of_parquet_have_the_names_that_the_hub_notes(tmp_path: Path) -> None:
    for client in "ab":
        (tmp_path / client).mkdir()
        saved(rows(client)).to_parquet(tmp_path / client / "train.parquet")
        unknown = [{"text": "new", "label": 1}, {"text": "newer", "label": -1}]
        saved(unknown).to_parquet(tmp_path / client / "test.parquet")
    assert faults(tmp_path, test_rows=1)[0] == (
        f"{tmp_path}/a/test.parquet, row 2, column 'label': a label must not be empty, got None"
    )


@pytest.mark.parametrize("name", ["../outside.arrow", "/etc/passwd", "", 7, "a/b.arrow"])
def test_names_in_a_saved_data_set_never_leave_its_folder(name: Any, tmp_path: Path) -> None:
    saved(rows("a")).save_to_disk(tmp_path / "a")
    (tmp_path / "a" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (fault, *_) = faults(tmp_path)
    assert fault == f"{tmp_path}/a/state.json: a data file must be a name in this folder, got {name!r}"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_data_files": 3}', "[" * 100_000, '{"_data_files": [[]]}'])
def test_a_damaged_state_is_a_fault(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    found = Faults()
    assert split_files(tmp_path, found) == {"": []} and found.count == 1
    assert found.found[0].startswith(f"{tmp_path}/state.json: cannot be read: ")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrow_is_read_as_stream_and_as_file_and_not_where_it_is_compressed(
    compression: Any, indexed: bool, tmp_path: Path
) -> None:
    table = pyarrow.Table.from_pylist([{"text": "x" * 50, "label": n} for n in range(100)])
    table = table.set_column(0, "text", table["text"].dictionary_encode())
    path, options = tmp_path / "rows.arrow", pyarrow.ipc.IpcWriteOptions(compression=compression)
    new = pyarrow.ipc.new_file if indexed else pyarrow.ipc.new_stream
    with path.open("wb") as file, new(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=30)
    found = Faults()
    read = read_table(path, found)
    if compression:
        rule = "is a compressed Arrow file; write it without compression, or as Parquet"
        assert read is None and found.found == [f"{path}: {rule}"]
    else:
        assert read is not None and found.count == 0
        assert [record.values["label"] for record in read.records] == [*range(100)]
    found = Faults()
    assert read_table(path, found, LimitSettings(rows=5)) is None and found.count == 1


def test_damaged_arrow_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    table = pyarrow.Table.from_pylist(rows("a"))
    with path.open("wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    for end in (*range(0, len(content), 37),):
        path.write_bytes(content[:end])
        found = Faults()
        read = read_table(path, found)
        assert read is not None or found.count == 1


def test_site_files_are_told_apart_by_their_names() -> None:
    names = ["a.csv", "b.dev.jsonl", "b.train.jsonl", "c-test.csv"]
    found = Faults()
    assert site_files([Path(name) for name in names], found) == {
        "a": {"": [Path("a.csv")]},
        "b": {"valid": [Path("b.dev.jsonl")], "train": [Path("b.train.jsonl")]},
        "c-test": {"": [Path("c-test.csv")]},
    }
    assert found.count == 0


def labelled(counts: dict[int, int]) -> list[Row]:
    return [Row(f"{label} {n}", None, label) for label, count in counts.items() for n in range(count)]


@pytest.mark.parametrize(
    ("counts", "count", "held"),
    [
        ({0: 80, 1: 20}, 20, {0: 16, 1: 4}),
        ({0: 90, 1: 10}, 10, {0: 9, 1: 1}),
        ({0: 5, 1: 5}, 3, {0: 2, 1: 1}),  # 1.5 each: the first has the rest
        ({0: 48, 1: 2}, 10, {0: 10}),  # 0.4 of a row
        ({0: 1, 1: 9}, 5, {1: 5}),  # the only row of a label stays
        ({0: 1, 1: 1, 2: 8}, 10, {2: 7}),
    ],
)
def test_rows_held_out_have_the_labels_in_their_shares(
    counts: dict[int, int], count: int, held: dict[int, int]
) -> None:
    for seed in range(5):
        kept, apart = hold_out(labelled(counts), count, generator(seed, "x"), stratified=True)
        assert Counter(row.label for row in apart) == held
        assert len(kept) + len(apart) == sum(counts.values())


def test_no_text_is_on_both_sides_whatever_its_labels() -> None:
    found = [Row(f"text {n % 7}", None, n % 3) for n in range(42)]
    for seed in range(20):
        kept, apart = hold_out(found, 12, generator(seed, "x"), stratified=True)
        assert len(apart) == 12 and not {row.text for row in kept} & {row.text for row in apart}
