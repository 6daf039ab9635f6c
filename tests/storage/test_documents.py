"""JSON, JSON Lines and YAML are read within their limits, and what is beyond is one sentence."""

import json
import time
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from fedlease.config.layers import MOST_YAML, dump_yaml, parse_yaml, read_yaml
from fedlease.errors import ConfigError, RunFolderError
from fedlease.storage import documents
from fedlease.storage.documents import checked, parse_json, read_lines, read_object


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (b"[1]", "f is damaged: expected a JSON object, received a list"),
        (b'{"a": 1', "f is damaged: JSONDecodeError"),
        (b'{"a": "\xff"}', "f is damaged: UnicodeDecodeError"),
        (b'{"a": ' + b"9" * 5000 + b"}", "f is damaged: ValueError"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "lists and objects are nested more than 32 deep"),
        (b'{"a":' * 200_000, "f is damaged: "),
        (b'{"a": [' + b"," * 10_000_001, "f is damaged: it has more than 10,000,000 values"),
    ],
)
def test_json_beyond_a_limit_is_one_sentence(blob: bytes, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(RunFolderError, match=said) as caught:
        parse_json(blob, "f")
    assert len(caught.value.faults) == 1 and len(str(caught.value)) < 300
    assert time.monotonic() - begun < 10


def test_json_within_its_limits_is_read() -> None:
    content = json.loads('{"a":' * 31 + "[]" + "}" * 31)
    assert parse_json(json.dumps(content).encode(), "f") == content


def test_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_LINES", 3)
    path = tmp_path / "lines"
    path.write_bytes(b"1\n2\n3\nhalf")
    assert read_lines(path) == [b"1", b"2", b"3", b"half"]
    path.write_bytes(b"1\n2\n3\n4\n")
    with pytest.raises(RunFolderError, match="has more than 3 lines"):
        read_lines(path)
    assert read_lines(tmp_path / "none") == []
    with pytest.raises(RunFolderError, match="missing"):
        read_object(tmp_path / "none")


class Entry(BaseModel, strict=True):
    count: int
    name: str


def test_what_does_not_fit_is_told_by_its_place() -> None:
    assert checked({"count": 1, "name": "n"}, Entry, "f") == Entry(count=1, name="n")
    with pytest.raises(RunFolderError) as caught:
        checked({"count": "\x1b[31m"}, Entry, "f")
    assert str(caught.value) == "f is damaged: count must be a valid integer, received str; name is missing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1]\nb: *a\n", "an alias"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "an alias"),
        ("[" * 50_000, "values are nested more than 20 deep"),
        ("a: {" * 21, "values are nested more than 20 deep"),
        ("a: !!int ''", "a value cannot be read"),
        ("a: !!bool x", "a value cannot be read"),
        ("a: !!timestamp x", "a value cannot be read"),
        ("# x\n" * 80_000, "it has more than 262,144 characters"),
    ],
)
def test_yaml_beyond_a_limit_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=said):
        parse_yaml(text)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(tmp_path / "c.yaml")
    assert len(caught.value.faults) == 1
    assert time.monotonic() - begun < 10


def test_what_is_written_has_no_aliases() -> None:
    shared = ["x"]
    content = {"a": shared, "b": shared, "c": {"d": shared}}
    assert parse_yaml(dump_yaml(content)) == content
    assert len("a" * MOST_YAML) == len(parse_yaml("a" * MOST_YAML))
