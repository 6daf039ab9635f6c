"""The container files of ``examples/containers``: what can be known of them without a container engine."""

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedlease.cli.use import serve
from fedlease.flower.new_app import write_app

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "containers"
COMPOSE = ("compose.yaml", "federation.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def options(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


@pytest.mark.parametrize("name", COMPOSE)
def test_every_container_is_without_root_and_publishes_on_this_machine_alone(name: str) -> None:
    for service in services(name).values():
        uid = int(service["user"].split(":")[0])
        assert uid > 0 and service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and service["mem_limit"] and service["pids_limit"]
        assert not {"privileged", "pid", "devices", "cap_add", "environment"} & set(service)
        # No network of the host's: the gate and who registers share the SuperLink's loopback address.
        assert service.get("network_mode", "service:server") == "service:server"
        assert all(re.fullmatch(r"\$\{BIND:-127\.0\.0\.1\}:\d+:\d+", port) for port in service.get("ports", []))
        # Built here, not taken from somewhere.
        assert service["image"] == "fedlease"
    read_only = [v for s in services(name).values() for v in s["volumes"] if v.startswith("${")]
    assert read_only and all(volume.endswith(":ro") for volume in read_only)


def test_the_image_has_no_root_and_is_built_from_files_that_are_there() -> None:
    found = instructions()
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "FROM" and "ADD" not in kinds
    base = found[0][1]
    assert ":" in base and not base.endswith(":latest") and "/" not in base
    user = kinds.index("USER")
    assert found[user][1] == "10001:10001" and "RUN" not in kinds[user:]
    for kind, words in found:
        if kind == "COPY":
            assert all((ROOT / source).exists() for source in words.split()[:-1])
        if kind == "ARG" and words.startswith("EXTRAS="):
            assert set(words.removeprefix("EXTRAS=").split(",")) <= set(PROJECT["optional-dependencies"])
    assert '["fedlease"]' in dict(found)["ENTRYPOINT"] and "fedlease" in PROJECT["scripts"]
    # What the build needs is all that is sent to it.
    sent = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {source for kind, words in found if kind == "COPY" for source in words.split()[:-1]}
    assert sent[0] == "*" and {line[1:] for line in sent if line.startswith("!")} == copied


def test_no_file_holds_a_secret_or_a_registry() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"(?i)(password|passwd|api[_-]?key)\s*[:=]|BEGIN [A-Z ]*PRIVATE|hf_[A-Za-z0-9]{8}", text
        ), path
        assert not re.search(r"sha256:[0-9a-f]{16}|https?://(?!127\.0\.0\.1)", text), path


def test_serve_is_called_with_options_that_it_has() -> None:
    (service,) = services("compose.yaml").values()
    command, folder, *words = service["command"]
    assert command == "serve" and f"{folder}:ro" in service["volumes"][0]
    known = {"--" + name.replace("_", "-") for name in inspect.signature(serve).parameters}
    assert options(words) <= known and "--token-file" in words
    assert words[words.index("--token-file") + 1] == "/run/secrets/tokens" and service["secrets"] == ["tokens"]


def test_the_federation_runs_what_the_guide_of_an_app_runs(tmp_path: Path) -> None:
    """Server and nodes have the options of the README that ``fedlease new`` writes, and its files."""
    found = services("federation.yaml")
    nodes = sorted(name for name in found if name.startswith("site-"))
    assert len(nodes) == 3 and set(found) == {"server", "gate", "admin", *nodes}
    write_app(tmp_path / "a", nodes, "server", 9000)
    guide = (tmp_path / "a" / "README.md").read_text().replace("\\\n", " ")
    assert "subjectAltName=DNS:server," in guide
    programs = ("flower-superlink --host", "fedlease gate", "flower-supernode")
    starts = [line for line in guide.splitlines() if line.startswith(programs)]
    by_name = dict(zip(["server", "gate", *nodes], starts, strict=True))
    for name, line in by_name.items():
        program, *words = shlex.split(line)
        service = found[name]
        assert service.get("entrypoint", ["fedlease"]) == [program]
        assert options(service["command"]) == options(words)
        mounted = {volume.removesuffix(":ro").rsplit(":", 1)[1] for volume in service["volumes"]}
        assert {word for word in service["command"] if word.startswith("/keys/")} <= mounted
    for name, host in (("server", "127.0.0.1"), ("gate", "0.0.0.0")):
        assert found[name]["command"][found[name]["command"].index("--host") + 1] == host
    for name in nodes:  # a node has its own key and its own rows
        others = [other for other in nodes if other != name]
        assert not [v for v in found[name]["volumes"] for other in others if other in v]
        assert f"client-id='{name}'" in found[name]["command"][-1]


@pytest.mark.slow  # each program imports Flower anew
@pytest.mark.parametrize("name", ["server", "site-a"])
def test_flower_has_these_programs_and_options(name: str) -> None:
    pytest.importorskip("flwr", reason="fedlease[flower] is not installed")
    service = services("federation.yaml")[name]
    program = Path(sys.executable).parent / service["entrypoint"][0]
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=120, check=True)
    assert options(service["command"]) <= set(re.findall(r"--[a-z-]+", done.stdout))
