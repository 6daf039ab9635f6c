"""Own files: what is read, and the text of every fault."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from fedlease.config.data import ColumnSettings, DataSettings
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.sources.folder import load_client, write_folder
from fedlease.errors import DataError

GOOD = [{"text": f"row {number}", "label": number % 2} for number in range(6)]
TEST = [{"text": "new 0", "label": 0}, {"text": "new 1", "label": 1}]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif ".csv" in path.name:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = buffer.getvalue().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def client(root: Path, name: str = "a", train: Sequence[dict[str, Any]] = GOOD, test: Sequence[Any] = TEST) -> Path:
    write(root / name / "train.jsonl", train)
    write(root / name / "test.jsonl", test)
    return root


def load(path: Path, seed: int = 0, **options: Any) -> Federation:
    return load_federation(DataSettings(path=path, **options), seed)


def faults(path: Path, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return [fault for fault in caught.value.faults if not fault.startswith("data.bad_rows=drop")]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_every_file_type_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a" / f"train.{suffix}", GOOD)
    write(tmp_path / "a" / f"test.{suffix}", TEST)
    (member,) = load(tmp_path)
    assert (member.id, member.task, member.labels) == ("a", "default", ("0", "1"))
    assert [(row.text, row.text_pair, row.label) for row in member.train] == [
        (f"row {i}", None, i % 2) for i in range(6)
    ]
    assert [row.text for row in member.test] == ["new 0", "new 1"]


def test_clients_are_sorted_and_have_their_own_label_lists(tmp_path: Path) -> None:
    client(
        tmp_path, "b", [{"text": "x", "label": "pos"}, {"text": "y", "label": "neg"}], [{"text": "z", "label": "neg"}]
    )
    client(tmp_path, "a", [{"text": str(n), "label": n} for n in (10, 9, 2)], [{"text": "t", "label": 9}])
    federation = load(tmp_path)
    assert list(federation.clients) == ["a", "b"]
    assert federation.clients["a"].labels == ("2", "9", "10")  # numbers by value, not by digits
    assert federation.clients["b"].labels == ("neg", "pos")
    assert federation.clients["a"].test[0].label == 1


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([True, False], ("false", "true")),
        ([1.0, 2], ("1", "2")),
        ([0.5, 1.5], ("0.5", "1.5")),
        (["1.0", "1"], ("1", "1.0")),
    ],
)
def test_label_values_become_names(tmp_path: Path, values: list[Any], labels: tuple[str, ...]) -> None:
    rows = [{"text": f"t{value}", "label": value} for value in values]
    (member,) = load(client(tmp_path, train=rows, test=rows[:1]))
    assert member.labels == labels


def test_csv_numbers_written_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    write(tmp_path / "a/train.csv", [{"text": "x", "label": "1.0"}, {"text": "y", "label": "0.0"}])
    write(tmp_path / "a/test.csv", [{"text": "z", "label": "1"}])
    (member,) = load(tmp_path)
    assert member.labels == ("0", "1")
    assert member.test[0].label == 1


def test_columns_are_mapped_and_a_pair_is_found_by_name(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}", "a": f"a{n}", "y": n, "about": "qa"} for n in range(2)]
    columns = ColumnSettings(text="q", text_pair="a", label="y", task="about")
    (member,) = load(client(tmp_path / "mapped", train=rows, test=rows[:1]), columns=columns)
    assert (member.train[0].text, member.train[0].text_pair, member.task) == ("q0", "a0", "qa")
    paired = [{"text": f"x{n}", "text_pair": f"p{n}", "label": n} for n in range(2)]
    (member,) = load(client(tmp_path / "default", train=paired, test=paired[:1]))
    assert [row.text_pair for row in member.train] == ["p0", "p1"]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    client(tmp_path)
    body = b"\xef\xbb\xbf" + b'{"text": "x", "label": 0}\r\n\r\n  \n{"text": "y", "label": 1}'
    (tmp_path / "a/train.jsonl").write_bytes(body)
    (member,) = load(tmp_path)
    assert [row.text for row in member.train] == ["x", "y"]


@pytest.mark.parametrize("blank", ["\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}\N{LINE SEPARATOR}", "\x1c"])
def test_a_line_of_spaces_that_json_does_not_know_is_a_fault(blank: str, tmp_path: Path) -> None:
    client(tmp_path)
    (tmp_path / "a/train.jsonl").write_text(f'{{"text": "x", "label": 0}}\n{blank}\n', encoding="utf-8", newline="")
    with pytest.raises(DataError, match=r"train.jsonl, line 2: malformed JSON: Expecting value"):
        load(tmp_path)


def test_valid_files_are_used_instead_of_a_fraction(tmp_path: Path) -> None:
    write(client(tmp_path) / "a/valid.jsonl", [{"text": "v", "label": 1}])
    (member,) = load(tmp_path, valid_fraction=0.5)
    assert [row.text for row in member.valid] == ["v"]
    assert len(member.train) == 6


def test_valid_fraction_comes_out_of_train(tmp_path: Path) -> None:
    (member,) = load(client(tmp_path), valid_fraction=0.34)
    assert len(member.valid) == 2  # round(0.34 * 6)
    assert sorted(row.text for row in (*member.train, *member.valid)) == [f"row {n}" for n in range(6)]
    assert len(load(tmp_path, valid_fraction=0.01).clients["a"].valid) == 1  # at least one


def test_row_limits_take_a_seeded_sample_and_short_clients_are_named(tmp_path: Path) -> None:
    client(tmp_path, train=[{"text": f"row {n}", "label": n % 2} for n in range(60)])
    first = load(tmp_path, train_rows=30, test_rows=5)
    assert (len(first.clients["a"].train), len(first.clients["a"].test)) == (30, 2)
    assert first.warnings == ("client 'a' is short: it has 2 of 5 test rows (data.test_rows)",)
    assert first.fingerprint() == load(tmp_path, train_rows=30, test_rows=5).fingerprint()
    assert first.fingerprint() != load(tmp_path, seed=1, train_rows=30, test_rows=5).fingerprint()


def test_one_client_of_one_label_and_leaked_rows_are_warnings(tmp_path: Path) -> None:
    client(tmp_path, "a")
    client(tmp_path, "b", [{"text": "x", "label": 1}], [{"text": "x", "label": 1}])
    assert load(tmp_path).warnings == (
        "client 'b': 1 test row is also a train row",
        "client 'b': all train rows have the label '1', so its head has one output and its loss is 0: it learns "
        "nothing, is not asked to train, and is left out of every mean; data.labels would give it the labels of its "
        "task",
    )


def test_a_task_of_one_label_is_an_error(tmp_path: Path) -> None:
    one = [{"text": "x", "label": "yes", "task": "t"}]
    client(client(tmp_path / "same", "a", one, one), "b", one, one)
    assert faults(tmp_path / "same") == ["task 't': every row has the label 'yes'; at least two labels are needed"]
    other = [{"text": "x", "label": "no", "task": "t"}]
    client(client(tmp_path / "each", "a", one, one), "b", other, other)
    assert faults(tmp_path / "each") == [
        "task 't': each of its 2 clients knows one label only; there is nothing to learn unless data.labels states the "
        "labels of the task"
    ]


def test_all_faults_are_reported_with_file_line_and_column(tmp_path: Path) -> None:
    client(tmp_path)
    lines = [
        b'{"text": "ok", "label": 0}',
        b'{"text": "ok 2", "label": 1}',
        b'{"text": " ", "label": 0}',
        b"",
        b'{"text": 5, "label": 0}',
        b'{"label": 0}',
        b'{"text": "x"}',
        b'{"text": "x", "label": null}',
        b'{"text": "x", "label": [1]}',
        b'{"text": "x", "label": NaN}',
        b'{"text": "x", ',
        b'{"text": "\xff", "label": 0}',
        b"[1]",
        b'{"text": "a\\ud800", "label": 0}',
        b'{"text": "a", "label": 0, "label": 1}',
        b'{"text": "a", "label": 1' + b"0" * 5000 + b"}",
    ]
    (tmp_path / "a/train.jsonl").write_bytes(b"\n".join(lines))
    write(tmp_path / "a/test.jsonl", [{"text": "t", "label": 0}, {"text": "t", "label": 7}])
    train, test = tmp_path / "a/train.jsonl", tmp_path / "a/test.jsonl"
    found = faults(tmp_path)
    malformed = [fault for fault in found if "malformed" in fault]
    assert [fault.split(": malformed JSON: ")[0] for fault in malformed] == [
        f"{train}, line {line}" for line in (11, 15, 16)
    ]
    assert malformed[1].endswith("'label' is named twice") and "integer string conversion" in malformed[2]
    assert sorted(set(found) - set(malformed)) == sorted(
        [
            f"{train}, line 3, column 'text': a text must not be empty, got ' '",
            f"{train}, line 5, column 'text': a text must be a string, got 5",
            f"{train}, line 6, column 'text': is missing",
            f"{train}, line 7, column 'label': is missing",
            f"{train}, line 8, column 'label': a label must not be empty, got None",
            f"{train}, line 9, column 'label': a label must be a name or a number, got [1]",
            f"{train}, line 10, column 'label': a label must be a name or a number, got nan",
            f"{train}, line 12: not UTF-8 (byte 0xff at position 10)",
            f"{train}, line 13: a JSON object is needed, got list",
            f"{train}, line 14, column 'text': a text must be valid Unicode, got a lone surrogate at position 1",
            f"{test}, line 2, column 'label': client 'a' has no train row with the label '7'; its labels are '0', '1'",
            "Text files in another encoding are read with data.encoding, such as cp1252.",
        ]
    )


def test_equal_faults_are_told_once_with_their_places(tmp_path: Path) -> None:
    client(tmp_path, train=[*GOOD, *({"text": "", "label": 0} for _ in range(25))])
    write(tmp_path / "a/test.jsonl", [*TEST, {"text": "", "label": 0}])
    assert faults(tmp_path) == [
        f"{tmp_path}/a/train.jsonl, line 7, column 'text': a text must not be empty, got ''; 25 more like it: line 8; "
        "line 9; line 10; line 11; line 12 ..."
    ]


def test_csv_lines_count_cells_that_span_lines(tmp_path: Path) -> None:
    client(tmp_path)
    (tmp_path / "a/train.jsonl").unlink()
    file = tmp_path / "a/train.csv"
    file.write_text('text,label\n"two\nlines",0\nok,1\n,1\nx\n', newline="")
    assert faults(tmp_path) == [
        f"{file}, line 6: 1 cell, but the header has 2",
        f"{file}, line 5, column 'text': a text must not be empty, got ''",
    ]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"text,label\n\xc3\xa4,0\n\xe9,1\n", ", line 3: not UTF-8 (byte 0xe9 at position 0)"),
        (b"text,label,text\nx,0,y\n", ", line 1: columns named twice: 'text'"),
        (b'text,label\n"x,0\n', ", line 2: malformed CSV: unexpected end of data"),
    ],
)
def test_unreadable_csv_names_the_line(tmp_path: Path, content: bytes, rule: str) -> None:
    client(tmp_path)
    (tmp_path / "a/train.jsonl").unlink()
    (tmp_path / "a/train.csv").write_bytes(content)
    assert faults(tmp_path)[0] == f"{tmp_path / 'a/train.csv'}{rule}"


def test_csv_cells_may_be_longer_than_the_modules_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    write(tmp_path / "a/train.csv", [{"text": "x" * 200_000, "label": 0}, {"text": "y", "label": 1}])
    write(tmp_path / "a/test.csv", TEST)
    assert len(load(tmp_path).clients["a"].train[0].text) == 200_000
    assert csv.field_size_limit() == before


def test_clients_without_test_rows_hold_some_out_and_the_others_keep_theirs(tmp_path: Path) -> None:
    client(tmp_path, "a", [{"text": f"a {n}", "label": n % 2} for n in range(10)])
    client(tmp_path, "b", [{"text": f"b {n}", "label": n % 2} for n in range(10)], [{"text": "b new", "label": 0}])
    (tmp_path / "a/test.jsonl").unlink()
    federation = load(tmp_path, test_fraction=0.3)
    a, b = federation
    assert (len(a.train), len(a.test), len(b.train), [row.text for row in b.test]) == (7, 3, 10, ["b new"])
    assert sorted(row.text for row in (*a.train, *a.test)) == sorted(f"a {n}" for n in range(10))
    assert federation.warnings == (
        "client 'a': brings no test rows, so 3 of its 10 train rows are held out for test (data.test_fraction)",
    )
    told: list[str] = []
    alone = load_client(tmp_path / "a", "a", DataSettings(test_fraction=0.3), 0, on_note=told.append)
    assert alone == a and told == list(federation.warnings)


def test_every_client_without_rows_to_spare_is_named(tmp_path: Path) -> None:
    lonely = [{"client": name, "text": f"only row of {name}", "label": 0} for name in "pqr"]
    good = [{"client": "a", "text": f"a {n}", "label": n % 2} for n in range(4)]
    why = "no test rows: it has one distinct row, and that is needed for training"
    assert faults(write(tmp_path / "few.jsonl", lonely)) == [f"client {name!r}: {why}" for name in "pqr"]
    federation = load(write(tmp_path / "all.jsonl", [*good, *lonely]))
    told = [note for note in federation.warnings if "no test rows" in note]
    assert told == [f"client {name!r}: {why}; it trains but is not scored" for name in "pqr"]
    file = write(tmp_path / "split.csv", [{**row, "split": "train"} for row in [*good, *lonely]])
    assert faults(file) == [f"client {name!r}: no test rows in its files" for name in "apqr"]


def test_a_faulty_row_is_no_missing_split(tmp_path: Path) -> None:
    rows = [{"client": "a", "text": f"t{n}", "label": n % 2, "split": "train"} for n in range(4)]
    file = write(tmp_path / "all.jsonl", [*rows, {"client": "a", "text": "", "label": 0, "split": "test"}])
    assert faults(file) == [f"{file}, line 5, column 'text': a text must not be empty, got ''"]


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.parquet"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    client(tmp_path)
    (tmp_path / "a/train.jsonl").unlink()
    (tmp_path / "a" / name).write_bytes(b"garbage")
    (fault,) = faults(tmp_path)
    assert fault.startswith(f"{tmp_path / 'a' / name}: cannot be read")


def test_parquet_faults_name_the_row(tmp_path: Path) -> None:
    client(tmp_path)
    (tmp_path / "a/train.jsonl").unlink()
    file = write(tmp_path / "a/train.parquet", [*GOOD, {"text": None, "label": 0}])
    assert faults(tmp_path) == [f"{file}, row 7, column 'text': a text must not be empty, got None"]


def test_a_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    client(tmp_path, train=[{"sentence": "x", "label": 0}])
    assert faults(tmp_path) == [
        f"{tmp_path}/a/train.jsonl: no column 'text'; it has 'sentence', 'label': set data.columns.text",
        "The rows seem to have the texts in 'sentence': add --set data.columns.text=sentence.",
    ]


def test_missing_empty_doubled_and_unknown_files(tmp_path: Path) -> None:
    write(tmp_path / "a/test.jsonl", TEST)
    client(tmp_path, "b")
    (tmp_path / "b/test.jsonl").write_text("\n")
    write(client(tmp_path, "c") / "c/train.csv", GOOD)
    client(tmp_path, "d")
    (tmp_path / "d/train.jsonl").rename(tmp_path / "d/train.xlsx")
    others = ".jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow"
    assert faults(tmp_path) == [
        f"client 'a': no train rows: {tmp_path}/a has no train.jsonl (or {others})",
        f"train rows are in several files: {tmp_path}/c/train.csv, {tmp_path}/c/train.jsonl",
        f"{tmp_path}/d/train.xlsx: file type '.xlsx' is not one of .jsonl, {others}",
    ]


def test_wrong_paths(tmp_path: Path) -> None:
    assert faults(tmp_path / "nowhere") == [f"data.path: '{tmp_path}/nowhere' does not exist"]
    others = ".jsonl.gz, .json, .json.gz, .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow"
    expected = f"expected {tmp_path}/<client>/train.jsonl and test.jsonl (or {others}), one file per client as "
    assert faults(tmp_path) == [
        f"data.path: '{tmp_path}' has no rows; {expected}{tmp_path}/<client>.csv, or one file with a client column"
    ]
    write(tmp_path / "train.jsonl", GOOD)
    assert faults(tmp_path)[0].startswith(f"{tmp_path}: no column 'client'; set data.columns.client to the column")


def test_client_ids_must_be_safe_names(tmp_path: Path) -> None:
    names = [".hidden", "a/b", "a\\b", "nul\0", "x" * 101, " pad", "Same", "same"]
    rows = [
        {"text": f"{number} {split}", "label": 0, "client": name, "split": split}
        for number, name in enumerate(names)
        for split in ("train", "test")
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    hostile = "an id must not contain /, \\, NUL or another control character"
    assert faults(file) == [
        "client '.hidden': an id must not start with a dot",
        f"client 'a/b': {hostile}",
        f"client 'a\\\\b': {hostile}",
        f"client 'nul\\x00': {hostile}",
        f"client '{'x' * 101}': an id must not be longer than 100 bytes, it has 101",
        "client ' pad': an id must not start or end with a space",
        "clients 'Same', 'same': ids must differ by more than case and Unicode form",
    ]


@pytest.mark.parametrize(
    ("client_id", "code"),
    [
        ("a\u200b", "U+200B"),  # zero-width space
        ("a\u200dz", "U+200D"),  # joiner
        ("\u202ea", "U+202E"),  # right-to-left override
        ("a\u2066b", "U+2066"),  # isolate
        ("a\xa0b", "U+00A0"),  # no-break space
        ("a\x85b", "U+0085"),  # a control character above ASCII
        ("a\u2028b", "U+2028"),  # line separator
        ("a\ufe0f", "U+FE0F"),  # variation selector
        ("a\u3164", "U+3164"),  # Hangul filler
        ("a\U000e0041", "U+E0041"),  # tag
        ("a\ue000", "U+E000"),  # private use
    ],
)
def test_what_nobody_sees_names_no_client(client_id: str, code: str, tmp_path: Path) -> None:
    rule = f"must not contain an invisible or direction-changing character, it has {code}"
    assert client_id_fault(client_id) == rule
    rows = [{"client": client_id, "text": f"t{n}", "label": n % 2} for n in range(6)]
    (fault,) = faults(write(tmp_path / "rows.jsonl", rows))
    assert fault == f"client {client_id!r}: an id {rule}" and fault.isprintable()


@pytest.mark.parametrize("pair", [("straße", "STRASSE"), ("cafe\u0301", "caf\u00e9"), ("\ufb01x", "fix")])
def test_ids_that_look_alike_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    rows = [{"client": name, "text": f"{name} {n}", "label": n % 2} for name in pair for n in range(6)]
    both = ", ".join(map(repr, sorted(pair)))
    assert faults(write(tmp_path / "rows.jsonl", rows)) == [
        f"clients {both}: ids must differ by more than case and Unicode form"
    ]


def test_half_a_character_names_no_client() -> None:
    assert client_id_fault("a\ud800") == "must be valid Unicode, it has a lone surrogate"
    assert client_id_fault("klinik-ü") is None


def test_hidden_folders_without_rows_and_stray_files_are_passed_over(tmp_path: Path) -> None:
    client(tmp_path)
    (tmp_path / ".git").mkdir()
    write(tmp_path / "extra.csv", GOOD)
    write(tmp_path / "a/more.jsonl", GOOD)
    federation = load(tmp_path)
    assert list(federation.clients) == ["a"]
    assert federation.warnings == (
        f"{tmp_path}: extra.csv beside the client folders are not read",
        "client 'a': more.jsonl are not read; files must be named train, valid or test",
    )
    client(tmp_path, ".secret")
    assert faults(tmp_path) == ["client '.secret': an id must not start with a dot"]


def test_a_client_has_one_task_and_pairs_everywhere_or_nowhere(tmp_path: Path) -> None:
    client(
        tmp_path,
        train=[{"text": "x", "text_pair": "y", "label": 0, "task": "s"}, {"text": "z", "label": 1, "task": "t"}],
    )
    found = faults(tmp_path)
    file = tmp_path / "a/train.jsonl"
    assert f"{file}, line 2, column 'task': client 'a' must have one task, got 'default', 's', 't'" in found
    assert (
        f"{file}, line 2, column 'text_pair': client 'a' has a second text in other rows, but it is empty here" in found
    )


def rows_of(clients: Sequence[str], count: int = 20) -> list[dict[str, Any]]:
    return [{"who": name, "text": f"{name} {n}", "label": n % 3} for name in clients for n in range(count)]


def test_one_file_is_split_by_its_split_column(tmp_path: Path) -> None:
    rows = [{**row, "split": ["train", "train", "test", "validation"][n % 4]} for n, row in enumerate(rows_of("ab"))]
    rows = [{**row, "label": 0 if n < 4 else row["label"]} for n, row in enumerate(rows)]
    federation = load(write(tmp_path / "all.csv", rows), columns=ColumnSettings(client="who"))
    assert [(len(c.train), len(c.valid), len(c.test)) for c in federation] == [(10, 5, 5)] * 2


def test_one_file_without_splits_holds_out_a_fraction_of_each_client(tmp_path: Path) -> None:
    rows = rows_of(["a", "b"])
    file = write(tmp_path / "all.jsonl", [*rows, rows[0]])
    options: dict[str, Any] = {"columns": ColumnSettings(client="who"), "test_fraction": 0.25}
    federation = load(file, **options)
    for member in federation:
        assert (len(member.train), len(member.test)) == (15, 5)
        assert not {row.text for row in member.train} & {row.text for row in member.test}
        assert {row.text.split()[0] for row in (*member.train, *member.test)} == {member.id}
    assert federation.warnings == ("client 'a': 1 duplicate row dropped before the split into train and test",)
    assert federation.fingerprint() == load(file, **options).fingerprint()
    assert federation.fingerprint() != load(file, seed=1, **options).fingerprint()


def test_a_held_out_row_never_carries_the_only_example_of_a_label(tmp_path: Path) -> None:
    rows = [{"client": "a", "text": f"t{n}", "label": "rare" if n == 0 else "common"} for n in range(4)]
    file = write(tmp_path / "all.jsonl", rows)
    for seed in range(8):
        (member,) = load(file, seed=seed, test_fraction=0.7)
        assert "t0" in {row.text for row in member.train}
    single = [{"client": "a", "text": f"t{n}", "label": n} for n in range(2)]
    assert faults(write(tmp_path / "few.jsonl", single)) == [
        "client 'a': no test rows: it has 2 rows of 2 labels, "
        "and each label needs a train row before one can be held out"
    ]


def test_faults_of_one_file(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [{"text": "x", "label": 0, "client": "", "split": "train"}])
    assert faults(file) == [f"{file}, line 1, column 'client': a client must have a name, got an empty value"]
    write(file, [{"text": "x", "label": 0, "client": "a", "split": "tset"}])
    assert faults(file) == [f"{file}, line 1, column 'split': a split must be train, valid or test, got 'tset'"]
    write(file, [{"text": "x", "label": 0, "client": "a", "split": "test"}])
    assert faults(file) == [f"client 'a': no train rows in {file} (column 'split')"]
    file.write_text("")
    assert faults(file) == [f"data.path: {file} has no rows"]
    write(file, [{"text": "x", "label": 0}])
    assert faults(file) == [
        f"{file}: no column 'client'; set data.columns.client to the column that names the client "
        f"(it has 'text', 'label'), or data.partition=dirichlet to deal the rows to clients"
    ]


def test_partition_deals_one_file_without_clients(tmp_path: Path) -> None:
    pytest.importorskip("flwr_datasets")
    rows = [{"text": f"t{n}", "label": n % 2, "task": "xy"[n % 2 == 0]} for n in range(200)]
    rows = [{**row, "label": n // 2 % 2} for n, row in enumerate(rows)]
    file = write(tmp_path / "all.jsonl", rows)
    both = load(file, partition="task-and-label", clients_per_task=2, alpha=1.0)
    assert list(both.clients) == ["x-0", "x-1", "y-0", "y-1"]
    pooled = load(file, partition="dirichlet", clients_per_task=2, alpha=1.0)
    assert list(pooled.clients) == [f"pooled-{n}" for n in range(4)]
    for federation in (both, pooled):
        assert sum(len(c.train) + len(c.test) for c in federation) == 200
    assert faults(file, partition="dirichlet", columns=ColumnSettings(client="task")) == [
        f"data.partition: 'dirichlet' deals rows to clients, but {file} has a client column 'task'; "
        "use 'natural', or name another column in data.columns.client"
    ]
    mixed = write(
        tmp_path / "mixed.jsonl",
        [{**row, "text_pair": "" if n in (3, 5) else "and then"} for n, row in enumerate(rows)],
    )
    assert faults(mixed, partition="task-and-label") == [
        f"{mixed}, line 4, column 'text_pair': task 'x' has a second text in other rows, but it is empty here"
    ]
    assert faults(client(tmp_path / "dir"), partition="dirichlet")[0].startswith(
        "data.partition: 'dirichlet' deals one file"
    )


def test_one_client_is_read_from_a_folder_of_any_name(tmp_path: Path) -> None:
    write(tmp_path / "whatever" / "train.jsonl", GOOD)
    write(tmp_path / "whatever" / "test.csv", TEST)
    found = load_client(tmp_path / "whatever", "clinic", DataSettings(), 0)
    assert (found.id, found.labels, len(found.train), len(found.test)) == ("clinic", ("0", "1"), 6, 2)


def test_one_client_in_one_file_is_split_by_its_column_or_here(tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in GOOD] + [{**row, "split": "test"} for row in TEST]
    found = load_client(write(tmp_path / "a.jsonl", rows), "clinic", DataSettings(), 0)
    assert ([row.text for row in found.train], [row.text for row in found.test]) == (
        [row["text"] for row in GOOD],
        [row["text"] for row in TEST],
    )
    # Ten rows, a fifth held out; no column "client" is asked for.
    more = [{"text": f"row {number}", "label": number % 2} for number in range(10)]
    found = load_client(write(tmp_path / "b.jsonl", more), "clinic", DataSettings(), 0)
    assert (len(found.train), len(found.test)) == (8, 2)


def test_of_a_file_of_several_clients_one_gets_its_own_rows(tmp_path: Path) -> None:
    rows = [
        {"text": f"{client} {number}", "label": number % 2, "client": client}
        for client in ("clinic", "ward")
        for number in range(10)
    ]
    file = write(tmp_path / "a.jsonl", rows)
    found = load_client(file, "clinic", DataSettings(), 0)
    assert len(found.train) + len(found.test) == 10
    assert all(row.text.startswith("clinic") for row in (*found.train, *found.test))
    with pytest.raises(
        DataError, match=r"client 'lab': .* has no row of this client; column 'client' has 'clinic', 'ward'$"
    ):
        load_client(file, "lab", DataSettings(), 0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no rows"),
        ([{**row, "split": "test"} for row in GOOD], "no train rows in .* \\(column 'split'\\)"),
        ([{**row, "split": "later"} for row in GOOD], "a split must be train, valid or test, got 'later'"),
    ],
)
def test_faults_of_one_clients_file(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        load_client(write(tmp_path / "a.jsonl", rows), "clinic", DataSettings(), 0)


def test_one_client_needs_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_client(tmp_path / "absent", "clinic", DataSettings(), 0)
    with pytest.raises(DataError, match=r"has no train\.jsonl and test\.jsonl"):
        load_client(tmp_path, "clinic", DataSettings(), 0)
    write(tmp_path / "test.jsonl", TEST)
    with pytest.raises(DataError, match="no train rows"):
        load_client(tmp_path, "clinic", DataSettings(), 0)


@pytest.mark.parametrize("source", ["quickstart", "synthetic"])
def test_what_is_written_is_read_back(source: Any, tmp_path: Path) -> None:
    settings = DataSettings(source=source, clients_per_task=2, train_rows=20, test_rows=10, valid_fraction=0.2)
    federation = load_federation(settings, 0)
    again = load_federation(DataSettings(path=write_folder(federation, tmp_path / "new")), 0)
    assert list(again.clients) == list(federation.clients)
    for client, other in zip(federation, again, strict=True):
        assert other.task == client.task and set(other.labels) == set(client.labels)
        for split in ("train", "valid", "test"):
            mine, theirs = getattr(client, split), getattr(other, split)
            assert [(r.text, r.text_pair, client.labels[r.label]) for r in mine] == [
                (r.text, r.text_pair, other.labels[r.label]) for r in theirs
            ]
    with pytest.raises(DataError, match="new exists; choose another folder"):
        write_folder(federation, tmp_path / "new")
