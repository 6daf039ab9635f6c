"""The number of CPU threads that a run may use, limited by ``OMP_NUM_THREADS``, affinity and cgroup quotas."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

__all__ = ["cgroup_quota", "resolved_threads", "usable_cores", "usable_threads"]


def resolved_threads(threads: int | str) -> int:
    """The setting ``threads`` as a number; ``auto`` is :func:`usable_threads`."""
    return threads if isinstance(threads, int) else usable_threads()


def usable_threads(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Number of :func:`usable_cores`, limited by ``OMP_NUM_THREADS``, which is a number or a list of numbers.

    Args:
        environment: variables of the process.
        root: folder that has ``/proc`` and ``/sys``.
    """
    cores = usable_cores(root)
    # OpenMP accepts a list with a number for each level of nesting.
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores, int(first)) if first.isdecimal() and int(first) else cores


def usable_cores(root: Path = Path("/")) -> int:
    """The number of CPUs on which this process may run, or the quota of its cgroups if that is less.

    A quota of 2.5 CPUs gives 2: if one of several threads is throttled, the others wait for it.
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    return max(1, int(min(cores, cgroup_quota(root) or cores)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The quota in CPUs of this process's cgroups (version 1 or 2) and their parents; None without a readable quota."""
    found: list[float] = []
    for folder, mount in _folders(root):
        for place in (folder, *folder.parents):
            if place.is_relative_to(mount):
                found += _quota(place)
    return min(found, default=None)


def _folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yields the folders of this process's cgroups that may have a quota, each with the mount point of its tree."""
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
            # In a container, the mounted tree starts at the container's own group.
            inside = inside.relative_to(fields[3]) if inside.is_relative_to(fields[3]) else PurePosixPath()
            yield mount / str(inside).lstrip("/"), mount


def _quota(folder: Path) -> Iterator[float]:
    """Yields the quota of one group in CPUs, from the files of either version, if it has one."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max", no quota, raises ValueError
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
