"""A limit of the machine is one sentence wherever it is reached; a fault of the program stays one."""

import errno
import os
from pathlib import Path

import pytest
import torch

from fedlease.errors import ConfigError, RunFailedError, limit_reached, within_limits


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x/y"), "the disk is full: x/y"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "a file is larger than is allowed here"),
        (OSError(errno.EDQUOT, "quota"), "the disk quota is used up"),
        (OSError(errno.EROFS, "read-only"), "the disk can only be read"),
        (PermissionError(errno.EACCES, "denied", "z"), "permission is denied: z"),
        (MemoryError(), "memory is used up"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory is used up"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "memory is used up",
        ),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
        (Exception("Error while serializing: I/O error: File too large (os error 27)"), "a file is larger than"),
    ],
)
def test_limits_are_told_apart(error: Exception, reason: str) -> None:
    assert (limit_reached(error) or "").startswith(reason)
    wrapped = ValueError("could not save")
    wrapped.__cause__ = error
    assert limit_reached(wrapped) == limit_reached(error)
    stopped = pytest.raises(RunFailedError, match=r"^the run stopped: .*; make room$")
    with stopped as caught, within_limits("the run stopped", "make room"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "none"), RuntimeError("shape"), KeyError("k")])
def test_other_errors_pass(error: Exception) -> None:
    assert limit_reached(error) is None
    with pytest.raises(type(error)), within_limits("the run stopped", "make room"):
        raise error


def test_every_error_of_a_file_in_a_folder_is_told_where_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "r" / "report.html").mkdir(parents=True)
    for folder, kind in ((tmp_path / "r", RunFailedError), (tmp_path / "s", IsADirectoryError), (None, OSError)):
        with pytest.raises(kind) as caught, within_limits("it stopped", "make room", folder):
            (tmp_path / "r" / "report.html").write_text("page")
        if kind is RunFailedError:
            place = tmp_path / "r" / "report.html"
            assert str(caught.value) == f"it stopped: {place}: Is a directory; make room"


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(ConfigError, match=r"^bad$"), within_limits("the run stopped", "make room"):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise ConfigError("bad") from error
