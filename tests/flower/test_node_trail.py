"""A node's own audit trail: whatever leaves is on it before, by name, shape, bytes and hash; and what was refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import small_settings
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flower.hostile import asked_of, recorded
from flower.nodes import grid_of

from fedlease.cli.main import app as command
from fedlease.client.messages import Refused
from fedlease.core.codec import digest
from fedlease.errors import RunFolderError
from fedlease.flower import node_trail
from fedlease.flower.keys import fingerprint
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.storage.audit import AUDIT, Trail, read_trail

CLIENT, NODE, SIGNER = "planted-0-0", 900, "SHA256:signer"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryGrid, list[Any], str]:
    """After a run: the folder with run and nodes, the grid, the messages to one node, and its key."""
    folder = tmp_path_factory.mktemp("done")
    settings = small_settings(rounds=1)
    grid = grid_of(settings)
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "trusted.yaml").write_text(f'"{SIGNER}": "ssh-ed25519 AAAA"\n')
    for node, context in grid.contexts.items():
        own = {"state-dir": folder / str(node), "trusted": folder / "trusted.yaml", "key": folder / "key"}
        context.node_config.update({name: str(path) for name, path in own.items()})
    with pytest.MonkeyPatch.context() as patch:
        found = recorded(patch, CLIENT)
        FedLeaseStrategy(settings, folder / "run").start(grid)
    return folder, grid, [message for _, message in found], fingerprint(key.public_key())


def test_what_left_a_node_is_what_its_server_received(done: Any) -> None:
    folder, _, messages, key = done
    lines = read_trail(folder / str(NODE) / AUDIT)
    asked, left = ([line for line in lines if line["kind"] == kind] for kind in ("asked", "left"))
    assert [line["asked"] for line in asked] == ["introduction", "train", "train", "finish"]
    assert [line["what"] for line in left] == ["card", "update", "update", "scores"]
    assert {line["run"] for line in asked} == {messages[0].run} and asked[1]["phase"] == "warmup"
    assert all(line["app_signed_by"] == [SIGNER] for line in asked) and left[0]["key"] == key
    hash_ = digest(messages[0].settings.encode())
    (settings,) = (line for line in lines if line["kind"] == "settings")
    assert settings["settings"] == json.loads(messages[0].settings) and settings["settings_sha256"] == hash_
    assert {line["settings_sha256"] for line in asked} == {hash_}
    servers = [line for line in read_trail(folder / "run" / AUDIT) if line.get("client") == CLIENT]
    names = ("layout", "bytes", "content_sha256", "rows")
    updates = [[line[name] for name in names] for line in left if line["what"] == "update"]
    assert updates == [[line[name] for name in names] for line in servers if line["kind"] == "received"]
    layouts = {line["layout"]: line["shapes"] for line in lines if line["kind"] == "layout"}
    assert {name.split("/")[-2] for name in layouts[left[1]["layout"]]} == {"A", "B"}


def test_what_was_refused_is_on_record_with_values_that_the_server_is_not_told(done: Any, tmp_path: Path) -> None:
    _, grid, messages, _ = done
    config = {**grid.contexts[NODE].node_config, "state-dir": str(tmp_path), "max-rounds": 1}
    node = MemoryGrid(grid.app, {NODE: config})
    beyond = replace(messages[1], request=replace(messages[1].request, step=11))
    answer = asked_of(node, NODE, beyond)
    assert answer == Refused("partition 0: refused by its node's rule max-rounds; the log of its node says more")
    *_, last = read_trail(tmp_path / AUDIT)
    assert last["kind"] == "refused" and last["told"] == answer.reason
    assert last["reason"] == "step: must be at most 10 (max-rounds), received 11"
    asked_of(node, NODE, 7)
    assert read_trail(tmp_path / AUDIT)[-1]["reason"] == "a node is not asked for a int"


def test_nothing_leaves_a_node_that_cannot_write_its_trail(
    done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, grid, messages, _ = done
    node = MemoryGrid(grid.app, {NODE: {**grid.contexts[NODE].node_config, "state-dir": str(tmp_path)}})
    hello = replace(messages[0], request=None)
    (tmp_path / AUDIT).write_text('{"line":1}\n')
    assert "refused by its node's rule audit; the log" in asked_of(node, NODE, hello).reason
    (tmp_path / AUDIT).unlink()

    def full(self: Trail) -> None:
        if any(b'"left"' in line for line in self._waiting):
            raise OSError(28, "No space left on device")
        written(self)

    written = Trail.flush
    monkeypatch.setattr(Trail, "flush", full)
    assert "refused by its node's rule audit; the log" in asked_of(node, NODE, hello).reason
    assert [line["kind"] for line in read_trail(tmp_path / AUDIT)] == ["asked", "refused"]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_crash_loses_at_most_the_line_being_written(cut: int, done: Any, tmp_path: Path) -> None:
    folder, _, _, _ = done
    whole = (folder / str(NODE) / AUDIT).read_bytes()
    before = read_trail(folder / str(NODE) / AUDIT)
    (tmp_path / AUDIT).write_bytes(whole[:-cut])
    with pytest.raises(RunFolderError, match="its end is missing"):
        read_trail(tmp_path / AUDIT)
    trail = Trail.of(tmp_path)
    trail.add("asked", client="x")
    trail.flush()
    lines = read_trail(tmp_path / AUDIT)
    assert lines[:-2] == before[:-1] and [line["kind"] for line in lines[-2:]] == ["torn", "asked"]
    last = len(whole) - whole[:-1].rfind(b"\n") - 1
    assert lines[-2]["bytes"] == last - cut


def test_processes_of_a_node_write_one_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stays and one that Flower starts for a message, in turn."""
    own, other = dict[Path, Trail](), dict[Path, Trail]()
    for number in range(6):
        monkeypatch.setattr(node_trail, "_open", own if number % 3 else other)
        node_trail.NodeTrail(tmp_path, "a").refused([f"number {number}"], "no")
    assert [line["reason"] for line in read_trail(tmp_path / AUDIT)] == [f"number {number}" for number in range(6)]


def test_the_command_reads_it_and_finds_any_changed_byte(done: Any, tmp_path: Path) -> None:
    folder, _, messages, _ = done
    good = CliRunner().invoke(command, ["audit", str(folder / str(NODE))])
    assert good.exit_code == 0, good.output
    page = " ".join(good.output.split())
    assert messages[0].run[:12] in page and SIGNER in page and "1 x finish, 1 x introduction, 2 x train" in page
    assert (
        "LoRA A, LoRA B, router" in page
        and "one score per test row" in page
        and "not bounded" in page
        and "Nothing was refused." in page
    )
    whole, chosen = (folder / str(NODE) / AUDIT).read_bytes(), random.Random(0)
    for place in chosen.sample(range(len(whole)), 60):
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / AUDIT).write_bytes(changed)
        with pytest.raises(RunFolderError, match="is not as it was written"):
            read_trail(tmp_path / AUDIT)


def test_a_client_stands_there_by_its_id(done: Any, tmp_path: Path) -> None:
    _, grid, messages, _ = done
    config = {**grid.contexts[NODE].node_config, "state-dir": str(tmp_path), "client-id": "clinic-a"}
    asked_of(MemoryGrid(grid.app, {NODE: config}), NODE, messages[0])
    assert {line["client"] for line in read_trail(tmp_path / AUDIT) if "client" in line} == {"clinic-a"}


def test_a_node_without_a_place_for_it_has_none(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, grid, messages, _ = done
    monkeypatch.chdir(tmp_path)
    node = MemoryGrid(grid.app, {NODE: {"partition-id": 0, "num-partitions": 4}})
    asked_of(node, NODE, replace(messages[0], request=None))
    assert not [*tmp_path.iterdir()]
