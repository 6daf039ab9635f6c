"""How many threads ``auto`` is, on made-up machines; and how long they spin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import small_settings

from fedlease.cli.check_report import threads_line
from fedlease.config.settings import resolve
from fedlease.errors import ConfigError
from fedlease.runs.check import check_settings
from fedlease.runs.machine import resolve_machine
from fedlease.runs.threads import cgroup_quota, resolved_threads, usable_cores, usable_threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity and cgroups are Linux's")

UNIFIED = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
SPLIT = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, mounts: str, group: str, **files: str) -> Path:
    """The files of a machine; in their names ``__`` stands for a slash and ``_DOT_`` for a dot."""
    written = {"proc/self/mountinfo": mounts, "proc/self/cgroup": group}
    for name, text in files.items():
        written[f"sys/fs/cgroup/{name.replace('__', '/').replace('_DOT_', '.')}"] = text
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_the_tightest_quota_of_a_group_and_those_around_it_counts(tmp_path: Path) -> None:
    # 400 ms of 100 ms are 4 processors, 250 ms are 2.5.
    files = {"a__b__cpu_DOT_max": "400000 100000\n", "a__cpu_DOT_max": "250000 100000\n"}
    assert cgroup_quota(machine(tmp_path, UNIFIED, "0::/a/b\n", **files)) == 2.5


def test_a_group_without_a_quota_has_none(tmp_path: Path) -> None:
    assert cgroup_quota(machine(tmp_path, UNIFIED, "0::/a\n", a__cpu_DOT_max="max 100000\n")) is None
    assert cgroup_quota(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("root", "group", "place"),
    [
        ("/", "/docker/x", "docker/x/"),
        ("/docker/x", "/docker/x", ""),  # a container whose tree begins with its own group
        ("/docker/x", "/elsewhere", ""),
    ],
)
def test_version_1_is_read_where_it_is_mounted(root: str, group: str, place: str, tmp_path: Path) -> None:
    machine(tmp_path, SPLIT.format(root=root), f"7:memory:/m\n3:cpu,cpuacct:{group}\n0::/\n")
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct" / place
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(tmp_path) is None
    (folder / "cpu.cfs_quota_us").write_text("150000\n")
    assert cgroup_quota(tmp_path) == 1.5


@linux
def test_a_quota_is_rounded_down_and_gives_at_least_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert usable_cores(tmp_path) == 6
    for quota, cores in (("250000", 2), ("50000", 1), ("900000", 6)):
        assert usable_cores(machine(tmp_path, UNIFIED, "0::/\n", cpu_DOT_max=f"{quota} 100000\n")) == cores


@linux
def test_omp_num_threads_lowers_the_number_and_never_raises_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    for value, threads in (("3", 3), ("2,1", 2), (" 1", 1), ("64", 4), ("0", 4), ("many", 4), ("", 4)):
        assert usable_threads({"OMP_NUM_THREADS": value}, tmp_path) == threads
    assert usable_threads({}, tmp_path) == 4


def test_auto_is_resolved_once_and_a_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (resolved_threads("auto"), resolved_threads(7)) == (1, 7)
    assert resolve_machine(small_settings(threads="auto")).threads == 1
    assert resolve_machine(small_settings(threads=3)).threads == 3
    assert resolve(preset="glue-small").threads == "auto"


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, True])
def test_threads_are_a_number_from_one_or_auto(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(preset="smoke", overrides={"threads": value})
    rule = "must not be true or false" if value is True else "must be auto or a whole number from 1"
    assert caught.value.faults == (f"threads: {rule}, received {value!r}",)


def spin_count(**environment: str) -> str:
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    code = "import sys, fedlease, os; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**mine, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_threads_spin_for_a_short_time_unless_the_user_says_how_they_wait() -> None:
    assert spin_count() == "20000"
    assert spin_count(GOMP_SPINCOUNT="5") == "5"
    assert spin_count(OMP_WAIT_POLICY="ACTIVE") == "None"


def test_the_number_within_a_tenth_of_the_fastest_is_right() -> None:
    assert (
        threads_line({1: 0.002, 2: 0.0019}, 1)
        == "A row trains in 2.0 ms on 1, 1.9 ms on 2 threads: threads=1 is right."
    )
    assert threads_line({1: 0.002, 2: 0.001}, 1) == (
        "A row trains in 2.0 ms on 1, 1.0 ms on 2 threads: threads=2 is faster now."
    )


def test_check_times_one_thread_against_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlease.runs.check.usable_threads", lambda: 2)
    settings = small_settings(data__clients_per_task=1)
    seconds = check_settings(settings).seconds_per_row
    assert set(seconds) == {1, 2} and all(0 < took < 1 for took in seconds.values())
    monkeypatch.setattr("fedlease.runs.check.usable_threads", lambda: 1)
    assert check_settings(settings).seconds_per_row == {}
