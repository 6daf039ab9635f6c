"""How many processor threads a run may use: no more than ``OMP_NUM_THREADS``, affinity and cgroup quotas leave it."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

__all__ = ["cgroup_quota", "resolved_threads", "usable_cores", "usable_threads"]


def resolved_threads(threads: int | str) -> int:
    """The setting ``threads`` as a number: ``auto`` is what :func:`usable_threads` gives."""
    return threads if isinstance(threads, int) else usable_threads()


def usable_threads(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Number of :func:`usable_cores`, bounded by ``OMP_NUM_THREADS``, which is a number or a list of numbers.

    Args:
        environment: variables.
        root: where ``/proc`` and ``/sys`` are.
    """
    cores = usable_cores(root)
    # OpenMP takes a number for each level of nesting.
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores, int(first)) if first.isdecimal() and int(first) else cores


def usable_cores(root: Path = Path("/")) -> int:
    """The processors that this process may run on, or the quota of its cgroups where that is less.

    A quota of 2.5 processors gives 2: threads that wait for each other all stop while one is throttled.
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    return max(1, int(min(cores, cgroup_quota(root) or cores)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Processors that the cgroups of this process, of version 1 or 2, and those around them leave it.

    None: no quota, or none that can be read.
    """
    found: list[float] = []
    for folder, mount in _folders(root):
        for place in (folder, *folder.parents):
            if place.is_relative_to(mount):
                found += _quota(place)
    return min(found, default=None)


def _folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """The folders of this process's cgroups that know a quota, each with where its tree is mounted."""
    try:
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return
    for fields in mounts:
        # "... <root> <mount point> <options> - <type> <source> <options of the type>"
        with suppress(ValueError, IndexError):
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            if kind != "cgroup2" and (kind != "cgroup" or "cpu" not in options):
                continue
            wanted = "" if kind == "cgroup2" else "cpu"
            path = next(path for _, controllers, path in groups if wanted in controllers.split(","))
            mount = root / fields[4].lstrip("/")
            inside = PurePosixPath(path)
            # In a container the tree is mounted from the container's own group on.
            inside = inside.relative_to(fields[3]) if inside.is_relative_to(fields[3]) else PurePosixPath()
            yield mount / str(inside).lstrip("/"), mount


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one group in processors, by either version's files; nothing where it has none."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
