"""Memory of this process; imports nothing that takes much memory itself."""

from pathlib import Path


def memory_of_process() -> tuple[int, int]:
    """Current and peak resident memory of this process, in bytes (Linux).

    ``ru_maxrss`` would not do: after an exec it still counts the process that started this one.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, peak = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak
