"""Whatever bytes a file holds: rows, or faults that can be printed; never another exception, never without end.

Seeded: the same files everywhere. Parquet is read by a library of its own, so its damaged files are fewer.
"""

import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fedlease.config.data import DataSettings
from fedlease.config.settings import resolve
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, DataError, InputError
from fedlease.runs.machine import resolve_machine

TRAIN = [
    {
        "text": f"text {n}",
        "label": "ab"[n % 2],
        "prompt": f"ask {n}",
        "response": "yes",
        "messages": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": "yes"}],
    }
    for n in range(8)
]
PIECES = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\n\n\n", b'"', b"'", b",", b"[", b"]", b"{", b"}",
    b":", b"\\", b"\\ud800", b"\\u0000", b"\xe2\x80\x8b", b"\xe2\x80\xae", b"NaN", b"Infinity", b"-", b"1e999",
    b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b" " * 1000, b"text", b"null", b"true",
    b'"label": 1, "label": 2', b"\x1b[2J",
]  # fmt: skip


def lines() -> bytes:
    return "\n".join(map(json.dumps, TRAIN)).encode()


def table() -> bytes:
    rows = [f'"{row["text"]}",{row["label"]},{row["prompt"]},{row["response"]}' for row in TRAIN]
    return "\r\n".join(["text,label,prompt,response", *rows]).encode()


def parquet() -> bytes:
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TRAIN), target)
    return target.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "jsonl": lines,
    "json": lambda: json.dumps(TRAIN, indent=1).encode(),
    "csv": table,
    "jsonl.gz": lambda: gzip.compress(lines(), mtime=0),
    "csv.gz": lambda: gzip.compress(table(), mtime=0),
    "parquet": parquet,
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content after up to four changes: bytes flipped, pieces put in, parts left out, doubled or cut off."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(5):
            case 0 if at < len(content):
                content = content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
            case 1:
                content = content[:at] + chance.choice(PIECES) + content[at:]
            case 2:
                content = content[:at] + content[at + chance.randrange(40) :]
            case 3:
                content = content[:at] + content[max(0, at - chance.randrange(40)) :]
            case _:
                content = content[: max(at, 1)]
    return content


def told(path: Path, task: str) -> str:
    """What is said of the files, after checks that it can be written to any terminal."""
    try:
        federation = load_federation(DataSettings(path=path, valid_fraction=0.2), 0, task)
    except DataError as error:
        assert error.faults and all(error.faults)
        said = "\n".join(error.faults)
        assert len(said) < 20_000
    else:
        federation.fingerprint()
        said = "\n".join(federation.warnings)
    said.encode("ascii", errors="backslashreplace")
    return said


@pytest.mark.parametrize("task", ["classification", "generation"])
@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_give_rows_or_faults(kind: str, task: str, tmp_path: Path) -> None:
    chance = random.Random(f"{kind} {task}")
    whole = FILES[kind]()
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / f"train.{kind}"
    outcomes = set()
    for _ in range(100 if kind == "parquet" else 300):
        content = damaged(whole, chance)
        if kind.endswith("gz") and chance.random() < 0.7:
            # most damage to packed bytes is found by the checksum; this reaches what is behind it
            content = gzip.compress(damaged(gzip.decompress(whole), chance), 1, mtime=0)
        file.write_bytes(content)
        outcomes.add(told(tmp_path, task) == "")
    assert False in outcomes


def test_entries_that_are_no_files(tmp_path: Path) -> None:
    chance = random.Random(0)
    for number in range(40):
        folder = tmp_path / f"c{number}"
        folder.mkdir()
        for split in ("train", "valid", "test"):
            path = folder / f"{split}.{chance.choice(list(FILES))}"
            match chance.randrange(6):
                case 0:
                    path.mkdir()
                case 1:
                    os.mkfifo(path)
                case 2:
                    path.symlink_to(path)
                case 3:
                    path.symlink_to(tmp_path)
                case 4:
                    path.write_bytes(b"")
                case _:
                    path.symlink_to("/dev/zero")
        with pytest.raises(DataError):
            load_client(folder, "x", DataSettings(), 0)
    assert "is a folder, and a file of rows is needed" in told(tmp_path, "classification")


@pytest.mark.parametrize("name", [b"\xff\xfe", "a\u202eb".encode(), b"x" * 200, b"a\nb", b" a"])
def test_folders_with_odd_names_are_refused_as_clients(name: bytes, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    Path(os.fsdecode(folder), "train.jsonl").write_bytes(lines())
    assert "an id must " in told(tmp_path, "classification")


@pytest.mark.parametrize("path", ["loop", "loop/inner", "~no-such-user-here/rows", "a\0b", "x" * 300])
def test_paths_of_rows_that_lead_nowhere(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"^data\.path: .*(cannot be used as a path|does not exist)"):
        load_federation(resolve_machine(resolve(preset="smoke", overrides={"data.path": path})).data, 0)


def test_an_empty_path_is_not_the_folder_one_stands_in() -> None:
    with pytest.raises(ConfigError, match=r"^data\.path: must not be empty, received ''$"):
        resolve(preset="smoke", overrides={"data.path": ""})
