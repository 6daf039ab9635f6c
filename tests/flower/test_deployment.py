"""Real processes on this machine: SuperLink, SuperNodes, TLS, node keys; by the commands of an app's README."""

import copy
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

import httpx
from flower.deployment import Deployment, deployment
from flower.nodes import comparable
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from peft import get_peft_model_state_dict

import fedlease
from fedlease.config.settings import resolve
from fedlease.runs.runner import run_settings
from fedlease.storage.audit import read_trail

MISSING = [command for command in ("bash", "openssl", "ssh-keygen") if shutil.which(command) is None]
pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

SITES = ("site-a", "site-b", "site-c")
RUN = 400.0
"""Seconds; every message starts a process that imports torch."""


def run(app: Deployment, changes: str, out: str = "runs/first") -> str:
    """The command that a README's run block holds; the name of its process."""
    block = app.blocks["run"].replace("--stream", f'--stream --run-config \'out="{out}" set="{changes}"\'')
    assert block != app.blocks["run"]
    app.begin("run", block)
    return "run"


def run_to_end(app: Deployment, changes: str, out: str = "runs/first") -> dict[str, Any]:
    """The summary of a run."""
    name = run(app, changes, out)
    app.running[name].wait(RUN)
    path = app.folder / out / "summary.json"
    assert path.is_file(), app.log(name)
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def in_one_process(app: Deployment, changes: list[str], out: Path) -> dict[str, Any]:
    """The same settings on the same rows, without Flower."""
    settings = resolve(app.folder / "federation.yaml", overrides=[*changes, f"data.path={app.folder / 'rows'}"])
    return run_settings(settings, out)[settings.method].content


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("app") / "federation", SITES) as up:
        up.up()
        yield up


def test_a_deployment_gives_the_tensors_and_scores_of_one_process(app: Deployment, tmp_path: Path) -> None:
    changes = ["rounds=1", "warmup.epochs=1"]
    summary = run_to_end(app, " ".join(changes))
    here = in_one_process(app, changes, tmp_path / "here")
    there = app.folder / "runs/first"
    assert tensors_of(there)["state"] == tensors_of(tmp_path / "here")["state"]
    assert comparable(summary) == json.loads(json.dumps(comparable(here)))
    own = get_peft_model_state_dict(fedlease.load(app.folder / "model/site-a/fedlease"))
    known = get_peft_model_state_dict(fedlease.load(tmp_path / "here", "site-a"))
    assert own.keys() == known.keys() and all(torch.equal(own[name], known[name]) for name in known)
    # What goes to nodes is what fab-include lists; rows and keys stay.
    (packed,) = (app.folder / ".flwr/apps").iterdir()
    files = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    code = {f"federation_app/{name}.py" for name in ("__init__", "client_app", "server_app")}
    assert files == {"pyproject.toml", "federation.yaml", *code}
    assert all((app.folder / "state" / site).is_dir() for site in app.sites)


def test_the_app_runs_in_a_simulation_of_flower(app: Deployment, tmp_path: Path) -> None:
    """``flwr run . local``, which starts a server of its own in the background."""
    port = str(app.port("server") + 500)
    app.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] = port
    block = app.blocks["simulation"].replace("--stream", "--stream --run-config 'out=\"runs/simulated\"'")
    try:
        app.begin("simulation", block).wait(RUN)
        assert (app.folder / "runs/simulated/summary.json").is_file(), app.log("simulation")
    finally:
        app.do("simulation-stop")
    in_one_process(app, [], tmp_path / "here")
    assert tensors_of(app.folder / "runs/simulated")["state"] == tensors_of(tmp_path / "here")["state"]


def test_nodes_that_know_each_others_keys_are_summed_and_no_adapter_of_one_is_read(
    app: Deployment, tmp_path: Path
) -> None:
    changes = ["rounds=1", "warmup.epochs=1", "privacy.secure_sums=true", "privacy.sketch=64"]
    run_to_end(app, " ".join(changes), "runs/summed")
    in_one_process(app, changes, tmp_path / "here")
    assert tensors_of(app.folder / "runs/summed")["state"] == tensors_of(tmp_path / "here")["state"]
    lines = read_trail(app.folder / "runs/summed/audit.jsonl")
    shapes = {line["layout"]: line["shapes"] for line in lines if line["kind"] == "layout"}
    alone = [line for line in lines if line["kind"] == "received"]
    assert len(alone) == len(app.sites) and not any("/A/" in name for line in alone for name in shapes[line["layout"]])
    # To the others site-b is now whoever has another key.
    peers = app.folder / "keys/peers"
    assert app.begin("other key", "ssh-keygen -q -t ecdsa -b 384 -N '' -f keys/other").wait(60) == 0
    shutil.copy(app.folder / "keys/other.pub", peers / "site-b.pub")
    try:
        name = run(app, " ".join(changes), "runs/posed")
        app.until(name, "the keys of 'site-b' are not signed by a key that this node knows it by (peers)", RUN)
    finally:
        shutil.copy(app.folder / "keys/site-b.pub", peers)


def test_a_node_that_is_killed_is_left_out(app: Deployment) -> None:
    name = run(app, "rounds=2 warmup.epochs=1 flower.deadline=300", "runs/node")
    app.until(name, "fedlease warmup:", RUN)
    app.kill("node site-b")
    try:
        app.running[name].wait(RUN)
        folder = app.folder / "runs/node"
        refused = {r["round"]: r["refused"] for r in rounds_of(folder)}
        assert refused[0] == {} and refused[1].keys() == {"site-b"} and refused[2].keys() == {"site-b"}
        assert refused[1]["site-b"] == "was lost while it was asked: its SuperNode stopped reporting"
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["averaged"], summary["num_clients"]) == (2, 3) and any(
            "site-b" in line for line in summary["warnings"]
        )
    finally:
        app.join("node site-b", app.blocks["node site-b"])


def test_a_server_that_is_killed_resumes_where_it_was(app: Deployment, tmp_path: Path) -> None:
    changes = "rounds=2 warmup.epochs=1"
    name = run(app, changes, "runs/server")
    # Not what is printed while the round is under way, where that takes long.
    app.until(name, "fedlease experts 1: train loss", RUN)
    app.kill(name)
    app.kill("server")
    begun = [record["round"] for record in rounds_of(app.folder / "runs/server")]
    assert begun == [0, 1]
    app.begin("server")
    app.listening("server")
    run_to_end(app, changes, "runs/server")
    assert [record["round"] for record in rounds_of(app.folder / "runs/server")] == [0, 1, 2]
    here = in_one_process(app, changes.split(), tmp_path / "here")
    assert tensors_of(app.folder / "runs/server")["state"] == tensors_of(tmp_path / "here")["state"]
    assert not [line for line in here["warnings"] if "lost" in line]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("data-dir='$PWD/rows/site-b'", "data-dir='$PWD/rows/nowhere'"), "data-dir: '{folder}/rows/nowhere' does not"),
        (("client-id='site-b'", "client-id='site-a'"), "which is not this client's (flower.client_keys)"),
        (("client-id='site-b'", "client-id='site-b' model='{folder}/other'"), "is not the server's"),
    ],
    ids=["folder", "impostor", "model"],
)
def test_a_node_set_up_wrongly_stops_the_run_before_training(
    change: tuple[str, str], line: str, app: Deployment
) -> None:
    from fedlease.models.tiny import make_tiny

    if not (app.folder / "other").exists():
        make_tiny(app.folder / "other", seed=5)
    away = ["node site-b", *(["node site-a"] if "site-a" in change[1] else [])]
    for name in away:
        app.end(name)
    was, becomes = change
    app.join("wrong", app.blocks["node site-b"].replace(was, becomes.format(folder=app.folder)))
    try:
        name = run(app, "rounds=1 flower.wait=120", f"runs/{time.monotonic_ns()}")
        app.until(name, line.format(folder=app.folder), RUN)
        app.running[name].wait(RUN)
        assert "train loss" not in app.log(name)
        app.until("wrong", "the server does not take this node")
    finally:
        app.end("wrong")
        for name in away:
            app.join(name, app.blocks[name])


@pytest.fixture(scope="module")
def stranger(app: Deployment) -> Iterator[Deployment]:
    """Commands of Flower in a folder of the stranger's own, at the gate and at the SuperLink behind it."""
    made = copy.copy(app)
    made.folder, made.running, made.begun = app.folder.parent / "stranger", {}, {}
    (made.folder / ".flwr").mkdir(parents=True)
    shutil.copy(app.folder / "keys/ca.crt", made.folder)
    for name in ("pyproject.toml", "federation.yaml", "env.sh"):
        shutil.copy(app.folder / name, made.folder)
    shutil.copytree(app.folder / "federation_app", made.folder / "federation_app")
    code = f"open({str(made.folder / 'ran')!r}, 'w')\n"
    for name in ("client_app.py", "server_app.py"):
        path = made.folder / "federation_app" / name
        path.write_text(path.read_text() + code)
    places = [f'[superlink.{name}]\naddress = "localhost:{app.port(name)}"' for name in ("gate", "server")]
    config = "\n".join(f'{place}\nroot-certificates = "{made.folder}/ca.crt"' for place in places)
    (made.folder / ".flwr/config.toml").write_text(config)
    made.begin("key", "ssh-keygen -q -t ecdsa -b 384 -N '' -f mine").wait(60)
    yield made
    for name in list(made.running):
        made.kill(name)


class TestAStrangerWithTheAuthoritysCertificate:
    """On the network, with a SuperLink's commands and nothing else; what it tries works where no gate is."""

    @pytest.mark.parametrize("command", ["ls", "supernode list", "federation list"])
    def test_sees_nothing(self, command: str, stranger: Deployment) -> None:
        assert stranger.begin("look", f". ./env.sh; flwr {command} server").wait(60) == 0
        assert stranger.begin("look", f". ./env.sh; flwr {command} gate").wait(60) != 0
        assert "404 Not Found" in stranger.log("look")

    def test_registers_nothing(self, app: Deployment, stranger: Deployment) -> None:
        assert stranger.begin("register", ". ./env.sh; flwr supernode register mine.pub gate").wait(60) != 0
        # Even one whose key the SuperLink has, by whatever way, is not let in by the gate.
        assert stranger.begin("register", ". ./env.sh; flwr supernode register mine.pub server").wait(60) == 0
        block = app.blocks["node site-a"].replace("keys/site-a --trusted", f"{stranger.folder}/mine --trusted")
        port = re.findall(r"--port (\d+)", block)[0]
        block = block.replace(f"--port {port}", f"--port {int(port) + 600}")
        assert app.begin("registered", block).wait(60) != 0
        assert "SuperNode ID" not in app.log("registered") and "404 Not Found" in app.log("registered")
        app.running.pop("registered")

    def test_runs_nothing(self, stranger: Deployment) -> None:
        submit = ". ./env.sh; timeout 60 flwr run . gate --stream --run-config 'out=\"runs/stranger\"'"
        assert stranger.begin("submit", submit).wait(120) != 0 and "404 Not Found" in stranger.log("submit")
        assert not (stranger.folder / "ran").exists()

    def test_takes_no_task_of_an_app(self, app: Deployment) -> None:
        """Flower asks who takes the next app to run for no key at all."""
        asked = AcquireTaskRequest(supported_task_types=["flwr-serverapp"]).SerializeToString()
        about = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
        about |= {"flwr-package-name": "flwr", "flwr-package-version": version("flwr"), "flwr-component-name": "x"}
        found = {}
        for name in ("server", "gate"):
            url = f"https://localhost:{app.port(name)}/v1/runtime/acquire-task"
            trusted = ssl.create_default_context(cafile=str(app.folder / "keys/ca.crt"))
            found[name] = httpx.post(url, content=asked, headers=about, verify=trusted, trust_env=False)
        assert (found["server"].status_code, found["gate"].status_code) == (200, 404) and not found["gate"].content

    def test_a_server_that_ships_code_that_nobody_signed_is_refused_by_the_nodes(
        self, app: Deployment, stranger: Deployment
    ) -> None:
        """Whoever owns the server can submit it; it runs on no client's machine."""
        submit = '. ./env.sh; flwr run . server --stream --run-config \'out="runs/other" set="flower.wait=60"\''
        stranger.begin("submit", submit)
        stranger.until("submit", "The FAB could not be verified", RUN)
        stranger.running["submit"].wait(RUN)
        assert (stranger.folder / "ran").exists(), "on the server it ran"
        (stranger.folder / "ran").unlink()
        for site in app.sites:
            app.until(f"node {site}", "FAB verification failed")
        assert not (stranger.folder / "ran").exists()


@pytest.mark.parametrize("fault", ["key", "authority", "open"])
def test_a_stranger_is_not_let_in(fault: str, app: Deployment) -> None:
    block = app.blocks["node site-a"]
    port = re.findall(r"--port (\d+)", block)[0]
    block = block.replace(f"--port {port}", f"--port {int(port) + 700}")
    if fault == "key":
        block = "ssh-keygen -q -t ecdsa -b 384 -N '' -f keys/stranger\n" + block.replace("keys/site-a", "keys/stranger")
    if fault == "authority":
        made = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -keyout keys/other.key -out keys/other.crt\n"
        block = made + block.replace("keys/ca.crt", "keys/other.crt")
    if fault == "open":
        block = block.replace("--root-certificates keys/ca.crt", "--insecure")
    name = f"stranger {fault}"
    assert app.begin(name, block).wait(60) != 0
    wording = {"key": "404 Not Found", "authority": "CERTIFICATE_VERIFY_FAILED", "open": "secure TLS"}
    assert wording[fault] in app.log(name)
    app.running.pop(name)
