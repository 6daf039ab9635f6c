"""Files of rows: JSON in all its forms, CSV, and the limits of every file type."""

import csv
import gzip
import io
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.config.data import LimitSettings
from fedlease.data.faults import Faults
from fedlease.data.reading.csv_rows import as_text
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import parse_table, read_table

ROWS: list[dict[str, object]] = [
    {"text": f"one, two {n}", "label": n, "more": {"a": [1, {"b": "ü"}]}} for n in range(3)
]


def parsed(content: str | bytes, name: str = "rows.json", **limits: int) -> tuple[Table | None, list[str]]:
    faults = Faults()
    raw = content if isinstance(content, bytes) else content.encode()
    table = parse_table(Path(name), raw, faults, csv=".csv" in name, limits=LimitSettings(**limits))
    return table, faults.found


def read(path: Path, **limits: int) -> tuple[Table | None, list[str]]:
    faults = Faults()
    return read_table(path, faults, LimitSettings(**limits)), faults.found


def values(table: Table | None) -> list[dict[str, object]]:
    assert table is not None
    return [record.values for record in table.records]


FORMS = {
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines with empty ones between": "\n\n  \r\n".join(map(json.dumps, ROWS)) + "\r\n",
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=2),
    "array of lines": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "array of lines with commas first": "\n  [" + "\n,".join(map(json.dumps, ROWS)) + "]",
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_json_gives_the_same_rows(form: str, mark: bytes) -> None:
    table, faults = parsed(mark + FORMS[form].encode())
    assert (values(table), faults) == (ROWS, [])


@pytest.mark.parametrize(
    ("form", "chunk"),
    # the first piece decides whether an object goes on in the next line, and must reach it
    [("array", 1), ("array over lines", 1), ("array over lines", 7), ("objects over lines", 3)],
)
def test_what_is_read_in_pieces_is_read_whole(form: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlease.data.reading.json_rows.CHUNK", chunk)
    # the first piece decides on the form, and must reach its first line
    table, faults = (
        parsed(FORMS[form].lstrip()) if form != "objects over lines" or chunk > 1 else parsed(FORMS["array"])
    )
    assert (values(table), faults) == (ROWS, [])


def test_lines_of_an_array_are_those_where_its_objects_begin() -> None:
    table, _ = parsed('[\n{"text": "a"},\n\n  {"text":\n"b"}, {"text": "c"}\n]')
    assert table is not None and [record.line for record in table.records] == [2, 4, 5]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('[{"a": 1}\n{"a": 2}]', "line 2: malformed JSON: {}expected ',' or ']', got '{{'"),
        ('[{"a": 1},\n', "line 2: malformed JSON: {}Expecting value (in the object that begins here)"),
        ('[{"a": 1}', "line 1: malformed JSON: {}the array has no end"),
        ('[{"a": 1}]\n\nx', "line 3: malformed JSON: {}nothing may follow the array, got 'x'"),
        ('[\n{"a": nul}]', "line 2: malformed JSON: {}Expecting value (in the object that begins here)"),
        ('[{"a": 1, "a": 2}]', "line 1: malformed JSON: {}'a' is named twice"),
        (b'[{"a": 1},\n{"a": "\xff"}]', "line 2: malformed JSON: {}not UTF-8 (byte 0xff)"),
        ("[" * 100_000, "line 1: malformed JSON: {}maximum recursion depth exceeded"),
        ("[1]", "line 1: a JSON object is needed, got int"),
    ],
)
def test_a_malformed_array_is_one_fault_that_says_so(content: str | bytes, fault: str) -> None:
    form = "read as one array of objects, since it begins with '[': "
    table, faults = parsed(content)
    assert len(faults) == 1 and faults[0].startswith(f"rows.json, {fault.format(form)}")
    assert table is None or not table.records


def test_one_object_that_holds_the_rows_is_told() -> None:
    table, faults = parsed(json.dumps({"version": 1, "data": ROWS}, indent=2))
    assert table is None and faults == [
        "rows.json, line 1: the file is one object with the keys 'version', 'data'; write only its list of rows, as "
        "one array"
    ]


def test_a_malformed_first_line_does_not_hide_the_next() -> None:
    table, faults = parsed('{"text": "x", \n{"text": "y"}\n{"text": \n{"text": "z"}', "rows.jsonl")
    assert [row["text"] for row in values(table)] == ["y", "z"]
    assert [fault.split(": malformed")[0] for fault in faults] == ["rows.jsonl, line 1", "rows.jsonl, line 3"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_lines_may_end_in_any_way(end: str) -> None:
    content = end.join(["text,label", f'"a{end}b",0', "c,1"])
    table, faults = parsed(content, "rows.csv")
    assert (values(table), faults) == ([{"text": f"a{end}b", "label": "0"}, {"text": "c", "label": "1"}], [])


def test_a_text_that_is_too_long_names_line_column_and_size() -> None:
    long = {"text": "x" * 101, "label": 0, "chat": [{"content": "y" * 102}]}
    for name in ("rows.jsonl", "rows.json"):
        content = "\n".join(map(json.dumps, [ROWS[0], long])) if name.endswith("l") else json.dumps([ROWS[0], long])
        table, faults = parsed(content, name, text_characters=100)
        assert values(table) == [ROWS[0]]
        line, rule = (
            2 if name.endswith("l") else 1,
            "a text may have at most 100 characters (data.limits.text_characters)",
        )
        assert faults == [
            f"{name}, line {line}, column 'text': {rule}, got one of 101",
            f"{name}, line {line}, column 'chat': {rule}, got one of 102",
        ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_text_of_fifty_million_bytes_is_refused_without_being_held(name: str, tmp_path: Path) -> None:
    lines = [b'{"text": "', b'"}\n{"text": "y"}\n'] if name == "rows.jsonl" else [b'text\n"', b'"\ny\n']
    with (tmp_path / name).open("wb") as file:
        file.write(lines[0])
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(lines[1])
    tracemalloc.start()
    table, faults = read(tmp_path / name, row_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line, size = (1, 50_000_013) if name == "rows.jsonl" else (2, 50_000_003)
    rule = "a line may have at most 1,000,000 bytes (data.limits.row_bytes), got one of"
    assert faults == [f"{tmp_path / name}, line {line}: {rule} {size:,}"]
    assert peak < 10_000_000
    # the next lines of JSON have a meaning of their own, those of CSV have none
    assert table is None if name == "rows.csv" else values(table) == [{"text": "y"}]


def bomb(path: Path) -> Path:
    """A small file that unpacks to 100 MB."""
    if path.suffix == ".parquet":
        one = pyarrow.array(["x" * 1_000_000])
        texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100, pyarrow.int32()), one)
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd", store_schema=False)
    else:
        with gzip.open(path, "wb", compresslevel=1) as file:
            line = b'{"text": "' + b"x" * 999_000 + b'"}\n' if "json" in path.name else b"x" * 999_000 + b"\n"
            file.write(line if "json" in path.name else b"text\n")
            for _ in range(100):
                file.write(line)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz", "rows.parquet"])
def test_a_bomb_stops_early_in_bounded_memory(name: str, tmp_path: Path) -> None:
    path = bomb(tmp_path / name)
    assert path.stat().st_size < 5_000_000
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    table, faults = read(path, file_bytes=5_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table is None
    assert len(faults) == 1 and faults[0].endswith(
        ": the file unpacks to more bytes than the 5,000,000 of data.limits.file_bytes"
    )
    assert peak < 80_000_000 and pyarrow.total_allocated_bytes() - before < 20_000_000


def test_a_bomb_of_empty_lines_stops_early(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 3_000_000, 1))
    table, faults = read(path, rows=1000)
    assert table is None
    assert faults == [f"{path}, line 10001: the file has over 10 times more lines than the rows of data.limits.rows"]


def test_a_text_repeated_in_parquet_is_refused_by_its_row(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "x" * 5000}]] * 3
    pyarrow.parquet.write_table(pyarrow.table({"label": [0, 1, 2], "messages": chats}), tmp_path / "rows.parquet")
    table, faults = read(tmp_path / "rows.parquet", text_characters=1000)
    rule = "a text may have at most 1,000 characters (data.limits.text_characters), got one of 5,000"
    assert values(table) == []
    assert faults == [f"{tmp_path}/rows.parquet, row {row}, column 'messages': {rule}" for row in (1, 2, 3)]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_too_many_columns_or_rows_are_refused_quickly(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for row, count in (({f"c{n}": "x" for n in range(20_000 if ".p" not in name else 2000)}, 1), ({"text": "x"}, 300)):
        if name == "rows.parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * count), path)
        elif name == "rows.csv":
            path.write_text("\n".join([",".join(row), *[",".join(row.values())] * count]))
        else:
            text = json.dumps([row] * count) if name == "rows.json" else "\n".join([json.dumps(row)] * count)
            path.write_text(text)
        begun = time.perf_counter()
        table, faults = read(path, columns=100, rows=200)
        assert time.perf_counter() - begun < 5
        assert table is None and len(faults) == 1
        assert (f"{len(row):,} columns, and at most 100 are read (data.limits.columns)" in faults[0]) == (count == 1)
        assert ("200 of data.limits.rows" in faults[0]) == (count == 300)


def test_values_nested_without_end_are_refused() -> None:
    deep = '{"text": "x", "more": ' + "[" * 200 + "]" * 200 + "}"
    table, faults = parsed(deep, "rows.jsonl")
    assert values(table) == []
    assert faults == ["rows.jsonl, line 1, column 'more': a value may be nested in at most 100 others"]


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    os.mkfifo(tmp_path / "b.csv")
    (tmp_path / "c.parquet").symlink_to(tmp_path / "c.parquet")
    assert read(tmp_path / "a.jsonl")[1] == [f"{tmp_path}/a.jsonl: is a folder, and a file of rows is needed"]
    fifo = "is a pipe, a socket or a device, and a file of rows is needed"
    assert read(tmp_path / "b.csv")[1] == [f"{tmp_path}/b.csv: {fifo}"]
    assert read(tmp_path / "c.parquet")[1][0].startswith(f"{tmp_path}/c.parquet: cannot be read: ")
    assert read(Path("a\0.csv"))[1] == ["a\0.csv: cannot be read: embedded null byte"]


CELLS = st.text(st.sampled_from("'=+-@\t\r a1.e"), max_size=6)


@given(CELLS)
def test_a_cell_never_begins_a_formula_and_reads_back_the_same(cell: str) -> None:
    written = as_text(cell)
    assert isinstance(written, str)
    if written[:1] in tuple("=+-@\t\r"):
        float(written)  # only a number may begin so
    target = io.StringIO(newline="")
    csv.writer(target).writerows([["prediction", "text"], ["x", written]])
    table, faults = parsed(target.getvalue(), "rows.csv")
    assert (values(table), faults) == ([{"prediction": "x", "text": cell}], [])


@pytest.mark.parametrize(("value", "written"), [("=1+1", "'=1+1"), ("-1.5e-3", "-1.5e-3"), (-2, -2), ("-a", "'-a")])
def test_numbers_are_no_formulas(value: Any, written: Any) -> None:
    assert as_text(value) == written


def test_apostrophes_of_others_stay() -> None:
    table, _ = parsed("text\n'=1+1\n", "rows.csv")
    assert values(table) == [{"text": "'=1+1"}]
