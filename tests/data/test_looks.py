"""What rows that cannot be used look like is told behind the faults, once, with what mends it."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.data.load import load_federation
from fedlease.errors import DataError

CLIENTS = "abc"


def told(
    root: Path, rows: list[dict[str, Any]], task: Any = "classification", name: str = "train.jsonl", **data: Any
) -> list[str]:
    """What is said of three clients that have the rows for train and for test."""
    for client in CLIENTS:
        for split in ("train", "test"):
            path = root / client / name.replace("train", split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(rows if name.endswith("csv") else map(json.dumps, rows)))  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load_federation(DataSettings(path=root, **data), 0, task)
    return [fault for fault in caught.value.faults if not fault.startswith("data.bad_rows=drop")]


def test_two_wrong_column_names_in_many_files_are_two_lines_and_the_command_that_mends_them(tmp_path: Path) -> None:
    rows = [{"id": n, "review": f"a longer text {n}", "sentiment": ["good", "bad"][n % 2]} for n in range(20)]
    first, second, hint = told(tmp_path, rows)
    for fault, key in ((first, "text"), (second, "label")):
        assert fault.startswith(f"{tmp_path}/a/train.jsonl: no column {key!r}; it has 'id', 'review', 'sentiment'")
        assert f"; 5 more like it: {tmp_path}/a/test.jsonl; " in fault
    assert hint == (
        "The rows seem to have the texts in 'review' and the labels in 'sentiment': add --set data.columns.text=review "
        "--set data.columns.label=sentiment."
    )


def test_labels_that_are_measurements_are_one_fault_and_one_hint(tmp_path: Path) -> None:
    for client in CLIENTS:
        (tmp_path / client).mkdir()
        for split, shift in (("train", 0.0), ("test", 0.005)):
            rows = [{"text": f"{client} {split} {n}", "label": n / 7 + shift} for n in range(20)]
            (tmp_path / client / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        load_federation(DataSettings(path=tmp_path), 0)
    fault, hint, clients = caught.value.faults
    assert clients == "3 clients cannot be used: 'a', 'b', 'c'; data.clients=skip goes on without them"
    assert "client 'a' has no train row with the label '0.005'" in fault and "; 59 more like it: line 2; " in fault
    assert hint.startswith("The labels look like measurements: set task=regression to learn them as numbers, or put")


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "look like chats or instructions (columns 'messages')"),
        ({"conversations": []}, "look like chats or instructions (columns 'conversations')"),
        ({"prompt": "hi", "completion": "yes"}, "look like chats or instructions (columns 'completion', 'prompt')"),
        ({"instruction": "add", "output": "4"}, "look like chats or instructions (columns 'instruction', 'output')"),
        (
            {"tokens": ["a", "b"], "ner_tags": [0, 1]},
            "look like lists of tokens with a tag each, as for named entities",
        ),
        ({"text": ["a", "b"], "label": [0, 1]}, "look like lists of tokens with a tag each, as for named entities"),
        ({"text": "x", "label": ["one", "two"]}, "look like rows with several labels each: set task=multilabel"),
    ],
)
def test_forms_of_other_tasks_are_named(row: dict[str, Any], hint: str, tmp_path: Path) -> None:
    lines = told(tmp_path, [row] * 12)
    (looks,) = [line for line in lines if line.startswith("The rows look")]
    assert len(lines) <= 4 and hint in looks
    assert ("set task=generation" in looks) == ("chats" in hint)


def test_texts_with_labels_for_generation_are_told(tmp_path: Path) -> None:
    fault, hint = told(tmp_path, [{"text": "x", "label": 0}] * 5, "generation")
    assert "no prompts; it has 'text', 'label'" in fault and "; 5 more like it: " in fault
    assert hint == "The rows look like texts with labels: set task=classification to train on them."


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_of_csv_is_told(mark: str, tmp_path: Path) -> None:
    rows: Any = [f"text{mark}label", *(f"t {n}{mark}{n % 2}" for n in range(6))]
    *_, hint = told(tmp_path, rows, name="train.csv", delimiter=",")
    assert hint == f"The columns seem to be separated by {mark!r}: set data.delimiter to it, or leave it out."


def test_rows_without_faults_give_no_hints(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2, "messages": []} for n in range(6)]
    for client in CLIENTS:
        (tmp_path / client).mkdir()
        (tmp_path / client / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_federation(DataSettings(path=tmp_path), 0)) == 3
