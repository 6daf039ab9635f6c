"""Wall time and memory of a whole run by phase: the quickstart, or the smoke preset under --smoke.

    python benchmarks/quickstart.py [--smoke] [--json FILE]

The run is a separate process in an empty folder; installation is not measured.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from output import Report, Table, entry


def measure(smoke: bool) -> Report:
    preset = "smoke" if smoke else "quickstart"
    child = Path(__file__).with_name("quickstart_child.py")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(child), preset, str(Path(folder) / "run")]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    phases = json.loads(done.stdout)
    whole = sum(phase["seconds"] for phase in phases)
    lines = [
        [phase["name"], f"{phase['seconds']:.1f}", f"{phase['seconds'] / whole:.0%}", f"{phase['peak'] / 1e6:.0f}"]
        for phase in phases
    ]
    lines.append(["in all", f"{whole:.1f}", "", f"{max(phase['peak'] for phase in phases) / 1e6:.0f}"])
    table = Table(
        f"fedlease run --preset {preset}, by phase",
        ["phase", "s", "share", "peak of the process so far, MB"],
        lines,
        [
            "Scores of every round are part of evaluation, which therefore has the peak of the whole main method. "
            "Baselines reuse the warm-up where their first step is the same work.",
        ],
    )
    return Report("Where does the time of the quickstart go?", [table], (), {"phases": phases})


if __name__ == "__main__":
    entry("quickstart", measure)
