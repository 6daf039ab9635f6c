"""Seconds of a round over real processes on this machine: SuperLink, three SuperNodes, TLS and node keys.

    python benchmarks/deployment.py [--smoke] [--json FILE]

The app comes from ``fedlease new``, with its sample rows and the tiny model. Training takes a tenth of a second, so
that the rest is the cost of the machinery. Floor: an app that replies to an empty message with an empty one, on the
same server and nodes. On top of the floor come, one at a time: the bytes of a fedlease round, fedlease in a resident
process (``keep-loaded``), and fedlease in a new process for every message. The same run in one process is listed too.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from output import Report, Table, entry

from fedlease.config.settings import resolve
from fedlease.reporting.quiet import quiet_libraries
from fedlease.runs.runner import run_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from flower.deployment import Deployment, deployment

NAME = "deployment"
SITES = ("site-a", "site-b", "site-c")
RUN = 900.0
"""Seconds that a whole run may take."""

ECHO = {
    "pyproject.toml": """[project]
name = "echo"
version = "1.0.0"
license = "LicenseRef-Private"

[tool.flwr.app]
publisher = "echo"

[tool.flwr.app.components]
serverapp = "echo_app.server_app:app"
clientapp = "echo_app.client_app:app"

[tool.flwr.app.config]
out = ""
rounds = 5
bytes = 0
""",
    "echo_app/__init__.py": "",
    "echo_app/client_app.py": """from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def answer(message, context):
    return Message(message.content, reply_to=message)
""",
    "echo_app/server_app.py": """import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    run = context.run_config
    while len(list(grid.get_node_ids())) < 3:
        time.sleep(0.5)
    seconds = []
    for number in range(int(run["rounds"])):
        noise = np.random.default_rng(number).bytes(int(run["bytes"]))
        content = RecordDict()
        if noise:
            content["arrays"] = ArrayRecord({"noise": Array(np.frombuffer(noise, dtype=np.uint8))})
        messages = [
            Message(content, dst_node_id=node, message_type="query", group_id=str(number))
            for node in grid.get_node_ids()
        ]
        started = time.monotonic()
        replies = list(grid.send_and_receive(messages, timeout=300))
        assert len(replies) == 3 and not any(reply.has_error() for reply in replies)
        seconds.append(time.monotonic() - started)
    Path(run["out"]).write_text(json.dumps(seconds))
""",
}


def echo(app: Deployment, name: str, rounds: int, payload: int) -> list[float]:
    """Measures every round of the echo app, in seconds."""
    folder, out = app.folder / "echo", app.folder / f"{name}.json"
    for path, text in ECHO.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    values = f'out="{out}" rounds={rounds} bytes={payload}'
    # Nodes run only signed code.
    signed = "fedlease sign echo --key keys/signer --out keys/signatures.json"
    app.begin(name, f". ./env.sh\n{signed}\nflwr run echo federation --stream --run-config '{values}'").wait(RUN)
    if not out.is_file():
        raise RuntimeError(app.log(name))
    seconds: list[float] = json.loads(out.read_text())
    return seconds


def run(app: Deployment, name: str, rounds: int) -> list[dict[str, Any]]:
    """Runs the app; returns the lines of its ``rounds.jsonl``, without the warm-up's."""
    values = f'out="runs/{name}" set="rounds={rounds}"'
    app.begin(name, f". ./env.sh\nflwr run . federation --stream --run-config '{values}'").wait(RUN)
    return records(app.folder / "runs" / name, app.log(name))


def records(folder: Path, log: str = "") -> list[dict[str, Any]]:
    """Reads the lines of a finished run's ``rounds.jsonl``, without the warm-up's."""
    if not (folder / "summary.json").is_file():
        raise RuntimeError(log)
    read = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [record for record in read if record["round"]]


def nodes(app: Deployment, keep_loaded: int) -> None:
    """Restarts the nodes with another ``keep-loaded``."""
    for site in app.sites:
        name = f"node {site}"
        app.end(name)
        app.join(name, app.blocks[name].replace("keep-loaded=900", f"keep-loaded={keep_loaded}"))


def seconds_to_start(module: str) -> float:
    """Measures a Python process that imports one module; the best of three."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, stderr=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return min(taken)


def measure(smoke: bool) -> Report:
    quiet_libraries()
    rounds = 1 if smoke else 5
    with tempfile.TemporaryDirectory() as scratch, deployment(Path(scratch) / "federation", SITES) as app:
        app.up()
        empty = echo(app, "empty", rounds, 0)
        warm = run(app, "stays", rounds)
        payload = max((r["bytes_down"] + r["bytes_up"]) // (2 * len(app.sites)) for r in warm)
        filled = echo(app, "filled", rounds, payload)
        nodes(app, 0)
        cold = run(app, "anew", rounds)
        rows = f"data.path={app.folder / 'rows'}"
        changes = [f"rounds={rounds}", rows]
        run_settings(resolve(app.folder / "federation.yaml", overrides=changes), app.folder / "here")
        here = records(app.folder / "here")
    # The first round of an app installs it on every node.
    steps = {
        "Flower alone, nothing in the message": empty,
        f"Flower alone, {payload / 1e3:.0f} kB each way": filled,
        "fedlease, a process that stays": [record["seconds"]["step"] for record in warm],
        "fedlease, a process per message": [record["seconds"]["step"] for record in cold],
        "fedlease in one process": [record["seconds"]["step"] for record in here],
    }
    floor = statistics.median(empty[1:] or empty)
    table = []
    for name, seconds in steps.items():
        median = statistics.median(seconds[1:] or seconds)
        table.append((name, f"{median:.2f}", f"{min(seconds):.2f} - {max(seconds):.2f}", f"{median - floor:+.2f}"))
    imports = {name: seconds_to_start(name) for name in ("flwr.supernode.runtime.run_clientapp", "fedlease.runs.open")}
    trained = statistics.median(record["seconds"]["train"] + record["seconds"]["evaluate"] for record in warm)
    notes = (
        f"Three nodes on one machine share its cores. Clients train and score for {trained:.2f} s a round, summed.",
        "Flower looks for replies every 3 s, its SuperNodes for messages every 3 s; a round is seldom less than both.",
        f"To start a process: Flower's {imports['flwr.supernode.runtime.run_clientapp']:.1f} s, with what fedlease "
        f"imports to train {imports['fedlease.runs.open']:.1f} s, each alone on the machine.",
    )
    raw = {"steps": steps, "payload": payload, "imports": imports, "trained": trained}
    return Report(
        "What does a round over real processes cost?",
        [Table(f"Seconds of a round, {rounds} rounds", ("", "median", "range", "above the floor"), table, notes)],
        raw=raw,
    )


if __name__ == "__main__":
    entry(NAME, measure)
