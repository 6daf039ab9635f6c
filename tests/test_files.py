"""Files appear whole or not at all, and nothing in a folder leads out of it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedlease import files
from fedlease.errors import RunFolderError
from fedlease.files import LOCK, append, check_walls, locked, new_folder, read_file, sweep, write_atomically


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_temporary_file_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "r"
    out.mkdir()
    (out / "file.tmp").symlink_to(victim)
    (out / "file").symlink_to(victim)
    write_atomically(out / "file", b"new")
    assert victim.read_text() == "mine"
    assert not (out / "file").is_symlink() and (out / "file").read_bytes() == b"new"
    # Even a name that is guessed does not help.
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0123456789abcdef")
    (out / ".file.0123456789abcdef.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(out / "file", b"newer")
    assert victim.read_text() == "mine" and (out / "file").read_bytes() == b"new"


def test_what_is_added_stands_behind_what_is_kept_and_follows_no_link(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append(path, b"one\n", 0)
    append(path, b"two\n", 4)
    append(path, b"three\n", 4)
    assert path.read_bytes() == b"one\nthree\n"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError):
        append(tmp_path / "link", b"x", 0)
    (tmp_path / "twin").hardlink_to(path)
    with pytest.raises(OSError, match="hard link"):
        append(path, b"x", 0)
    assert path.read_bytes() == b"one\nthree\n"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("1")
        raise ValueError("half")
    assert list((tmp_path / "a").iterdir()) == []
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    with pytest.raises(OSError), new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("2")
    assert (tmp_path / "a" / "b" / "file").read_text() == "1"
    with new_folder(tmp_path / "a" / "b", replace=True) as folder:
        (folder / "file").write_text("3")
    assert (tmp_path / "a" / "b" / "file").read_text() == "3"
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]


def test_only_a_regular_file_within_its_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(RunFolderError, match=r"file is damaged: it has more than 4 bytes"):
        read_file(path, 4)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(RunFolderError, match="link is a link"):
        read_file(tmp_path / "link", 5)
    with pytest.raises(RunFolderError, match="is not a regular file"):
        read_file(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunFolderError, match="pipe is not a regular file"):
        read_file(tmp_path / "pipe", 5)
    with pytest.raises(RunFolderError, match="null is not a regular file"):
        read_file(Path("/dev/null"), 5)
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_file(tmp_path / "a\0b", 5)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none", 5)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "deep", "pipe"])
def test_whatever_leads_out_of_a_folder_is_named(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "file").write_text("1")
    (tmp_path / "entry").symlink_to(out)
    check_walls(tmp_path / "entry")  # how the folder itself is reached is its owner's business
    place = out / "a" / "b" / "x" if kind == "deep" else out / "x"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to({"file": out / "a" / "file", "dangling": tmp_path / "none"}.get(kind, tmp_path))
    with pytest.raises(RunFolderError) as caught:
        check_walls(out)
    assert str(place) in str(caught.value) and len(caught.value.faults) == 1


def test_only_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".file.0123456789abcdef.tmp").write_text("half")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "x") as folder:
        left = folder.parent
        left.rename(tmp_path / "aside")
        raise KeyboardInterrupt
    (tmp_path / "aside").rename(left)
    for name in ("file.tmp", ".hidden", ".own.tmp"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".folder.tmp").mkdir()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file.tmp", ".hidden", ".own.tmp", ".folder.tmp"}


HOLD = """
import sys, time
from pathlib import Path
from fedlease.files import locked
with locked(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(RunFolderError, match=r"is in use: another process writes its run now"):
                locked(tmp_path, "run").__enter__()
            with locked(tmp_path, "report", name=".report.lock"):
                pass
        finally:
            holder.kill()
    with locked(tmp_path, "run"), pytest.raises(RunFolderError, match="is in use"), locked(tmp_path, "run", wait=0.1):
        pass
    with locked(tmp_path, "run"):
        pass


def test_a_lock_is_not_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(RunFolderError, match="cannot be written"), locked(tmp_path, "run"):
        pass
    assert not (tmp_path / "made").exists()


def test_a_folder_made_for_a_lock_is_left_only_where_something_was_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    out = tmp_path / "mine" / "runs" / "first"
    with pytest.raises(ValueError, match="refused"), locked(out, "run"):
        assert out.is_dir()
        raise ValueError("refused")
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(ValueError, match="broken off"), locked(out, "run"):
        (out / "config.yaml").write_text("")
        raise ValueError("broken off")
    assert (out / "config.yaml").exists()
    # One that was there before stays, empty or not.
    with locked(tmp_path / "mine", "run"):
        pass
    assert (tmp_path / "mine" / LOCK).exists()


def test_a_lock_whose_file_is_gone_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened the file before it was deleted holds a file without a name, which keeps nobody out."""
    out, waiting = tmp_path / "run", [True]
    taken = files._taken

    def taken_from_another(descriptor: int) -> bool:
        if waiting and waiting.pop():
            (out / LOCK).unlink()
            out.rmdir()
        return taken(descriptor)

    monkeypatch.setattr(files, "_taken", taken_from_another)
    with locked(out, "run"):
        assert (out / LOCK).exists()
        with pytest.raises(RunFolderError, match="in use"), locked(out, "run"):
            pass
