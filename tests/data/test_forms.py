"""How text files are written: encodings and delimiters that settings state, and those that are guessed and told."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedlease.config.data import DataSettings, LimitSettings
from fedlease.data.faults import Faults
from fedlease.data.reading import forms
from fedlease.data.reading.forms import GUESSED, Form, guess_delimiter, guess_encoding, guess_notes
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import read_table

GERMAN = "Befund;Urteil\nÄrzte prüfen, die Straße räumt man;ja\nKäse schmeckt, Öl fließt über den Tisch;nein\n"
ROWS = [
    {"Befund": "Ärzte prüfen, die Straße räumt man", "Urteil": "ja"},
    {"Befund": "Käse schmeckt, Öl fließt über den Tisch", "Urteil": "nein"},
]
WESTERN = "not UTF-8, so read as cp1252 (data.encoding states another)"
SEMICOLON = "read with ';' between cells (data.delimiter states another)"


def read(path: Path, content: bytes, form: Form = GUESSED, **limits: int) -> tuple[Table | None, list[str]]:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    faults = Faults()
    return read_table(path, faults, LimitSettings(**limits), form), faults.found


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", ()),
        ("utf-8-sig", ()),
        ("utf-16", ()),  # has a mark
        ("utf-32", ()),
        ("cp1252", (WESTERN,)),
        ("utf-16-le", ("not UTF-8, so read as utf-16-le (data.encoding states another)",)),
        ("utf-16-be", ("not UTF-8, so read as utf-16-be (data.encoding states another)",)),
    ],
)
def test_what_a_spreadsheet_saves_is_read_and_guesses_are_told(
    encoding: str, told: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    table, faults = read(tmp_path / name, GERMAN.encode(encoding))
    assert faults == [] and table is not None
    assert [record.values for record in table.records] == ROWS
    assert [record.line for record in table.records] == [2, 3]
    assert table.guessed == (*told, SEMICOLON)
    assert guess_notes([table]) == [f"{tmp_path / name}: {guess}" for guess in table.guessed]


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "gb18030", "cp1253"])
def test_an_encoding_that_cannot_be_guessed_is_a_fault_and_a_stated_one_is_read(encoding: str, tmp_path: Path) -> None:
    text = {
        "cp1251": "Врач проверил снимок, всё чисто",
        "cp1253": "γιατρός έλεγξε την εικόνα",
        "shift_jis": "医師が画像を確認した",
        "gb18030": "医生检查了图像、没有问题",
    }[encoding]
    content = f"text,label\n{text.replace(',', ' ')},yes\n".encode(encoding)
    table, faults = read(tmp_path / "rows.csv", content)
    example = "such as cp1251, gb18030 or shift_jis"
    assert table is None
    assert faults == [
        f"{tmp_path / 'rows.csv'}: is not UTF-8, and no other encoding fits: set data.encoding, {example}"
    ]
    table, faults = read(tmp_path / "rows.csv", content, Form(encoding=encoding))
    assert faults == [] and table is not None and table.guessed == ()
    assert table.records[0].values == {"text": text.replace(",", " "), "label": "yes"}


def test_a_damaged_file_in_utf_8_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    content = "text,label\nÄrzte prüfen,ja\n".encode() + b"Stra\xdfe,nein\n"
    table, faults = read(tmp_path / "rows.csv", content)
    assert table is None
    assert faults == [f"{tmp_path / 'rows.csv'}, line 3: not UTF-8 (byte 0xdf at position 4)"]


def test_json_is_utf_8_unless_it_is_said_or_marked(tmp_path: Path) -> None:
    text = '{"text": "Straße", "label": 1}\n'
    for encoding in ("utf-16", "utf-8-sig"):
        table, faults = read(tmp_path / "rows.jsonl", text.encode(encoding))
        assert table is not None and (table.records[0].values["text"], faults) == ("Straße", [])
    content = text.encode("cp1252")
    table, faults = read(tmp_path / "rows.jsonl", content)
    assert faults == [f"{tmp_path / 'rows.jsonl'}, line 1: not UTF-8 (byte 0xdf at position 14)"]
    for form in (content, b"[\n" + content + b"]"):
        table, faults = read(tmp_path / "rows.jsonl", form, Form(encoding="cp1252"))
        assert table is not None and (table.records[0].values["text"], faults) == ("Straße", [])


def test_bytes_without_a_meaning_in_a_stated_encoding_name_it(tmp_path: Path) -> None:
    table, faults = read(tmp_path / "rows.csv", b"text,label\na\x81b,1\n", Form(encoding="cp1252"))
    assert table is None and faults == [f"{tmp_path / 'rows.csv'}, line 2: not cp1252 (byte 0x81 at position 1)"]


@pytest.mark.parametrize(
    ("head", "mark"),
    [
        ("text,label\na;b;c,1\nd;e;f,2\n", ","),
        ("text;label\nwell, yes;1\nno;2\n", ";"),
        ("text;label\n1,5;a\n2,5;b\n", ";"),
        ("text\tlabel\na, b\t1\n", "\t"),
        ("id|text|label\n1|a, b; c|x\n2|d|y\n", "|"),
        ('text;label\n"over\nlines; two";1\nx;2\n', ";"),
        ("text\nwell; yes, no\n", ","),
        ("text;label", ";"),
        ("text,more;label\na;1\nb;2\n", ";"),
        ("", ","),
        ('"', ","),
    ],
)
def test_the_delimiter_is_that_by_which_rows_are_as_wide_as_their_header(head: str, mark: str) -> None:
    assert guess_delimiter(head) == mark


def test_tabs_of_tsv_and_a_stated_delimiter_are_no_guess(tmp_path: Path) -> None:
    table, faults = read(tmp_path / "rows.tsv", b"text\tlabel\na, b; c\t1.0\n")
    assert table is not None and (faults, table.guessed, table.typed) == ([], (), False)
    assert table.records[0].values == {"text": "a, b; c", "label": "1.0"}
    table, faults = read(tmp_path / "rows.csv", b"text^label\na,b^1\n", Form(delimiter="^"))
    assert table is not None and (faults, table.guessed) == ([], ())
    assert table.records[0].values == {"text": "a,b", "label": "1"}


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 65_536])
def test_a_recoded_file_is_the_text_in_utf_8_wherever_it_is_cut(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "HEAD", piece)
    text = "Öl,1\n" * 5
    file = io.BufferedReader(forms._Recoded(io.BytesIO(text.encode("utf-16")), "utf-16"))
    assert file.read(3) == "Öl".encode()
    assert file.read() == text.encode()[3:]
    file.seek(3)
    assert file.tell() == 3 and file.readline() == b",1\n"
    file.seek(0)
    assert file.read() == text.encode()


def test_no_more_is_looked_at_than_a_file_may_have() -> None:
    file = io.BytesIO(b"x" * 100_000 + b"\xff" * 200_000)
    assert guess_encoding(file, 50_000) == "utf-8"
    assert file.tell() == forms.HEAD


@pytest.mark.parametrize("value", ["", ";;", "a", "1", '"', "\n", 7, True])
def test_a_delimiter_is_one_mark(value: Any) -> None:
    with pytest.raises(ValidationError):
        DataSettings(delimiter=value)


def test_settings_take_names_of_tabs_and_encodings() -> None:
    assert {DataSettings(delimiter=name).delimiter for name in ("tab", "\\t", "\t")} == {"\t"}
    assert DataSettings(encoding="Latin-1").encoding == "iso8859-1"
    assert DataSettings(encoding="windows-1252").encoding == "cp1252"
    for name in ("no such", "base64", "hex", "idna", "rot13", "\0", 8):
        with pytest.raises(ValidationError, match="must be an encoding of text"):
            DataSettings(encoding=name)


def test_many_files_of_one_folder_are_told_by_their_number() -> None:
    def tables(*names: str) -> list[Table]:
        return [Table(Path(name), (), (), typed=False, guessed=("read so",)) for name in names]

    assert guess_notes(tables("s/a.csv", "s/b.csv", "s/c.csv")) == ["s/a.csv, s/b.csv, s/c.csv: read so"]
    many = [f"s/{name}.csv" for name in "abcd"]
    assert guess_notes(tables(*many)) == ["4 files in s, such as a.csv: read so"]
    assert guess_notes(tables(*many, "t/e.csv")) == [f"{', '.join(many)}, t/e.csv: read so"]
