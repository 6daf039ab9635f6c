"""Memory of this process; imports nothing that would itself take much."""

from pathlib import Path


def memory_of_process() -> tuple[int, int]:
    """Bytes of memory that this process holds now and has held at most (Linux).

    Not ``ru_maxrss``: after an exec it still holds the size of the process that started this one.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, peak = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak
