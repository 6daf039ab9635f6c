"""Own files for generation: the same folders and files, with prompts and responses instead of labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from fedlease.config.data import ColumnSettings, DataSettings
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import load_client, write_folder
from fedlease.errors import DataError

GOOD = [{"prompt": f"ask {number}", "response": f"say {number}"} for number in range(6)]
TEST = [{"prompt": "new 0", "response": "say 0"}, {"prompt": "new 1", "response": "say 1"}]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def client(root: Path, name: str = "a", train: Sequence[dict[str, Any]] = GOOD, test: Sequence[Any] = TEST) -> Path:
    write(root / name / "train.jsonl", train)
    write(root / name / "test.jsonl", test)
    return root


def load(path: Path, seed: int = 0, **options: Any) -> Federation:
    return load_federation(DataSettings(path=path, **options), seed, "generation")


def faults(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return list(caught.value.faults)


def test_clients_have_responses_and_no_labels(tmp_path: Path) -> None:
    federation = load(client(tmp_path))
    (member,) = federation
    assert (member.id, member.task, member.labels) == ("a", "default", ())
    assert member.train == tuple(Row(f"ask {n}", None, 0, f"say {n}") for n in range(6))
    assert member.test == tuple(Row(f"new {n}", None, 0, f"say {n}") for n in range(2))
    assert federation.warnings == ()  # least of all about labels


def test_the_form_may_differ_from_file_to_file(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    write(tmp_path / "a/train.parquet", [{"messages": chat, "task": "qa"}])
    (tmp_path / "a/test.csv").write_text('instruction,input,output,task\nAdd.,"2, 2",4,qa\nAdd.,,0,qa\n')
    (member,) = load(tmp_path)
    assert member.train == (Row("q", None, 0, "a", (("system", "s"),)),)
    assert member.test == (Row("Add.\n\n2, 2", None, 0, "4"), Row("Add.", None, 0, "0"))
    assert member.task == "qa"


def test_all_faults_are_reported_with_file_line_and_column(tmp_path: Path) -> None:
    client(tmp_path, train=[*GOOD, {"prompt": "", "response": "x"}, {"prompt": "x"}], test=[{"text": "t", "label": 0}])
    train, test = tmp_path / "a/train.jsonl", tmp_path / "a/test.jsonl"
    assert faults(tmp_path) == [
        f"{train}, line 7, column 'prompt': a prompt must not be empty, got ''",
        f"{train}, line 8, column 'response': is missing",
        f"{test}: no prompts; it has 'text', 'label', but for generation a row has 'prompt' and 'response' "
        "(data.columns.prompt, data.columns.response), or 'messages' or 'conversations', or 'instruction' and 'output' "
        "with an optional 'input'",
        "The rows look like texts with labels: set task=classification to train on them.",
    ]


def test_a_client_has_one_task(tmp_path: Path) -> None:
    rows = [{**row, "task": "st"[number % 2]} for number, row in enumerate(GOOD)]
    assert faults(client(tmp_path, train=rows, test=[{**TEST[0], "task": "s"}])) == [
        f"{tmp_path}/a/train.jsonl, line 2, column 'task': client 'a' must have one task, got 's', 't'"
    ]


def test_limits_validation_rows_and_leaks(tmp_path: Path) -> None:
    leak = {**GOOD[0], "response": "another answer"}
    client(tmp_path, train=[{"prompt": f"ask {n}", "response": "yes"} for n in range(40)], test=[*TEST, leak])
    federation = load(tmp_path, train_rows=20, test_rows=5, valid_fraction=0.25)
    (member,) = federation
    assert (len(member.train), len(member.valid), len(member.test)) == (15, 5, 3)
    assert not {row.text for row in member.train} & {row.text for row in member.valid}
    short = "client 'a' is short: it has 3 of 5 test rows (data.test_rows)"
    # the prompt of the leak is among the twenty rows that are taken or not
    place = next((name for name in ("train", "valid") if "ask 0" in {row.text for row in getattr(member, name)}), None)
    told = {"train": "a train row", "valid": "a validation row"}
    leaks = (f"client 'a': 1 test row is also {told[place]}",) if place else ()
    assert federation.warnings == (*leaks, short)
    assert load(tmp_path).warnings == ("client 'a': 1 test row is also a train row",)
    assert load(tmp_path, train_rows=20).fingerprint() != load(tmp_path, seed=1, train_rows=20).fingerprint()


def test_earlier_turns_make_another_question(tmp_path: Path) -> None:
    def chat(first: str) -> dict[str, Any]:
        said = [("user", first), ("assistant", "ok"), ("user", "so?"), ("assistant", "yes")]
        return {"messages": [{"role": role, "content": content} for role, content in said]}

    client(tmp_path, train=[chat("one"), chat("two")], test=[chat("three")])
    assert load(tmp_path).warnings == ()
    client(tmp_path, train=[chat("one"), chat("two")], test=[chat("two")])
    assert load(tmp_path).warnings == ("client 'a': 1 test row is also a train row",)


def test_one_file_is_split_by_its_split_column(tmp_path: Path) -> None:
    rows = [{**row, "who": "ab"[n % 2], "split": "train" if n < 4 else "test"} for n, row in enumerate(GOOD)]
    federation = load(write(tmp_path / "all.jsonl", rows), columns=ColumnSettings(client="who"))
    assert [(len(c.train), len(c.test)) for c in federation] == [(2, 1)] * 2


def test_one_file_without_splits_holds_out_rows_and_drops_duplicates(tmp_path: Path) -> None:
    rows = [{"prompt": f"ask {n}", "response": "yes", "client": "a"} for n in range(20)]
    twice = {**rows[0], "response": "no"}  # another answer is another row
    file = write(tmp_path / "all.jsonl", [*rows, rows[0], twice])
    federation = load(file, test_fraction=1 / 3)
    assert [(len(member.train), len(member.test)) for member in federation] == [(14, 7)]
    assert federation.warnings[0] == "client 'a': 1 duplicate row dropped before the split into train and test"
    assert faults(write(tmp_path / "one.jsonl", rows[:1])) == [
        "client 'a': no test rows: it has one distinct row, and that is needed for training"
    ]


def test_a_task_whose_clients_all_answer_the_same_is_no_fault(tmp_path: Path) -> None:
    same = [{"prompt": f"ask {n}", "response": "yes"} for n in range(4)]
    assert load(client(tmp_path, train=same, test=same[:1])).warnings == ("client 'a': 1 test row is also a train row",)


def test_one_client_is_read_from_a_folder_or_a_file(tmp_path: Path) -> None:
    client(tmp_path)
    found = load_client(tmp_path / "a", "clinic", DataSettings(), 0, "generation")
    assert (found.id, found.labels, len(found.train), len(found.test)) == ("clinic", (), 6, 2)
    file = write(tmp_path / "all.jsonl", GOOD)
    found = load_client(file, "clinic", DataSettings(test_fraction=0.5), 0, "generation")
    assert (len(found.train), len(found.test)) == (3, 3)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    plain = (Row("p", None, 0, "r"), Row("q ü", None, 0, "s\n"))
    chats = (Row("p", None, 0, "r", (("system", "s"), ("user", "u"), ("assistant", "a"))), Row("x", None, 0, "y"))
    federation = Federation.of(
        [
            ClientData("a", "t", (), plain, plain[:1], chats),
            ClientData("b", "u", (), chats, (), plain),
        ]
    )
    again = load(write_folder(federation, tmp_path / "new"))
    assert again.fingerprint() == federation.fingerprint()
    keys = [list(json.loads(line)) for line in (tmp_path / "new/a/train.jsonl").read_text().splitlines()]
    assert keys == [["prompt", "response", "task"]] * 2
    assert list(json.loads((tmp_path / "new/b/train.jsonl").read_text().splitlines()[1])) == ["messages", "task"]


def test_the_planted_federation_is_written_and_read_back(tmp_path: Path) -> None:
    settings = DataSettings(source="synthetic", clients_per_task=2, train_rows=20, test_rows=10, valid_fraction=0.2)
    federation = load_federation(settings, 0, "generation")
    assert load(write_folder(federation, tmp_path / "new")).fingerprint() == federation.fingerprint()
