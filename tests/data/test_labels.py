"""Labels that mean the same are one label in every file type; those that only look the same are told."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fedlease.config.data import DataSettings
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.labels import alike, doubtful_labels, uneven
from fedlease.data.load import load_federation
from fedlease.data.reading.targets import are_measurements
from fedlease.data.reading.values import visible
from fedlease.errors import DataError


def write(path: Path, labels: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"{path.name} {number}" for number in range(len(labels))]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": list(labels)}), path)
    elif path.suffix == ".csv":
        lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        path.write_text("text,label\n" + "\n".join(lines))
    else:
        rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(root: Path, files: Mapping[str, Sequence[object]]) -> Federation:
    for name, labels in files.items():
        write(root / name, labels)
    return load_federation(DataSettings(path=root), 0)


@pytest.mark.parametrize(
    ("train", "test", "labels"),
    [
        ("csv:True,False", "jsonl:true,false", ("false", "true")),
        ("csv:TRUE,FALSE", "parquet:true,false", ("false", "true")),
        ("parquet:true,false", "csv:true,false", ("false", "true")),
        ('jsonl:"True","False"', "csv:True,False", ("false", "true")),
        ("csv:1.0,0.0", "jsonl:1,0", ("0", "1")),
        ("csv:1,0", 'jsonl:"1.0","0.0"', ("0", "1")),
        ("parquet:1.0,0.0", "csv:1,0.00", ("0", "1")),
        ("jsonl:1.0,2.5", "csv:1,2.5", ("1", "2.5")),
    ],
)
def test_labels_agree_over_file_types(train: str, test: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    files: dict[str, list[object]] = {}
    for split, written in (("train", train), ("test", test)):
        kind, _, values = written.partition(":")
        files[f"a/{split}.{kind}"] = values.split(",") if kind == "csv" else json.loads(f"[{values}]")
    (member,) = load(tmp_path, files)
    assert member.labels == labels
    assert [row.label for row in member.train] == [row.label for row in member.test]


@pytest.mark.parametrize(
    "other",
    ["urgent ", " urgent", "urgent\u00a0", "urgent\u200b", "ur\u00adgent", "\ufeffurgent", "urgent\t", "\u200eurgent"],
)
def test_labels_that_differ_invisibly_are_one_label_and_told(other: str, tmp_path: Path) -> None:
    federation = load(tmp_path, {"a/train.jsonl": ["urgent", "calm", other], "a/test.jsonl": [other, "calm"]})
    (member,) = federation
    assert member.labels == ("calm", "urgent")
    assert [row.label for row in member.test] == [1, 0]
    assert federation.warnings == (
        "client 'a': labels that differ from 'urgent' only by space, Unicode form or what is invisible are read as the "
        f"same label: {other!a} (2 rows)",
    )


def test_a_label_written_in_one_way_throughout_is_not_told(tmp_path: Path) -> None:
    federation = load(tmp_path, {"a/train.jsonl": ["urgent ", "calm"], "a/test.jsonl": ["urgent "]})
    assert (federation.clients["a"].labels, federation.warnings) == (("calm", "urgent"), ())


def test_spaces_within_and_unicode_forms_are_folded_and_joiners_stay() -> None:
    assert visible("in \u2009 two\n words") == "in two words"
    assert visible("cafe\u0301") == "caf\u00e9"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert visible(family) == family


def test_a_label_of_nothing_visible_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, column 'label': a label must not be empty, got '\\u200b'"):
        load(tmp_path, {"a/train.jsonl": ["x", "\u200b", "y"], "a/test.jsonl": ["x"]})


@pytest.mark.parametrize("pair", [("Urgent", "urgent"), ("\ufb01re", "fire"), ("m\u00b2", "m2"), ("1", "1.0")])
def test_labels_that_only_look_the_same_are_learnt_apart_and_told(pair: tuple[str, str], tmp_path: Path) -> None:
    federation = load(tmp_path, {"a/train.jsonl": [*pair, "calm"], "a/test.jsonl": [pair[0]]})
    assert set(federation.clients["a"].labels) == {*pair, "calm"}
    (note,) = federation.warnings
    assert note.startswith("client 'a': labels that differ only by case, Unicode form or the way a number is written")
    assert all(repr(label) in note for label in pair)


def test_labels_with_a_difference_to_be_seen_are_not_alike() -> None:
    assert alike(["polish", "finish", "1.1", "1.10", "c", "c++", "a b", "a-b"]) == []
    assert alike(["US", "us", "uk"]) == [["US", "us"]]


def test_clients_that_write_one_label_in_two_ways_are_told(tmp_path: Path) -> None:
    one, two = ["Urgent", "calm"], ["urgent", "calm"]
    files = {f"{client}/{split}.jsonl": labels for client, labels in (("a", one), ("b", two)) for split in ("train",)}
    federation = load(tmp_path, {**files, "a/test.jsonl": one, "b/test.jsonl": two})
    note = "task 'default': clients write the same label in different ways: 'Urgent' (clients 'a') and 'urgent' "
    assert note + "(clients 'b')" in federation.warnings


def test_words_for_missing_values_and_measurements_are_told() -> None:
    assert doubtful_labels({"nan": 1, "none": 4, "yes": 3}, "client 'a'") == [
        "client 'a': 1 row with the label 'nan', which reads as a missing value"
    ]
    (note,) = doubtful_labels({str(n / 7): 1 for n in range(1, 7)}, "client 'a'")
    assert note.startswith("client 'a': its labels look like measurements (6 distinct numbers in 6 rows)")
    assert not are_measurements({"0.5": 30, "1.5": 30, "2.5": 30, "3.5": 30, "4.5": 30})
    assert not are_measurements({str(n): 1 for n in range(50)})


def test_labels_are_uneven_where_they_are_for_half_of_the_clients() -> None:
    def client(name: str, rare: int, usual: int) -> ClientData:
        rows = tuple(Row(f"{name} {n}", None, int(n >= rare)) for n in range(rare + usual))
        return ClientData(name, "t", ("rare", "usual"), rows, (), rows[:1])

    even, skewed, more = client("a", 10, 10), client("b", 2, 9), client("c", 1, 9)
    # 1, 4.5 and 9 times as many: the middle one is told; of two, the higher.
    words = "'usual' has 4.5 times as many train rows as 'rare' at client 'b'"
    assert uneven([even, skewed, more]) == f"{words}, and at least half of the 3 clients are as uneven"
    assert uneven([even, skewed]).startswith(words) and uneven([skewed]) == words
    assert uneven([even, even, more]) == "" and uneven([client("d", 0, 9)]) == ""
