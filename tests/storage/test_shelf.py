"""Private tensors of many clients: bounded in memory, the same bits from disk, and no file is left."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, small_run, tensors_of

from fedlease.client.store import Private
from fedlease.core.codec import dumps
from fedlease.core.types import AdapterSpec, ClientModel, Tensors
from fedlease.errors import RunFolderError
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.shelf import OnDisk, Shelf

SPEC = AdapterSpec(r=2, alpha=4, dropout=0.0, target_modules=("m",))
EACH = 4 * (6 + 3)
"""Bytes of a client: six values of an adapter and three of a head, in float32."""


def tensors(client: int) -> Tensors:
    return {"m/A/0": torch.full((2, 3), client / 7), "head/w": torch.full((3,), client / 3)}


def test_of_many_clients_as_many_are_in_memory_as_the_bound_has_room_for(tmp_path: Path) -> None:
    """Ten, and the rest is in two files each, adapter and head; every bit is what it was, and nothing is left."""
    shelf = Shelf(tmp_path / "private", in_memory=10 * EACH + 11)
    clients = [Private().trained(1, SPEC, tensors(i), shelf).accepted(1, ClientModel(SPEC, {})) for i in range(300)]
    assert shelf.held == 10 * EACH
    assert len(list(shelf.folder.iterdir())) == 2 * 290
    for i in (0, 9, 10, 299):
        laid = clients[i].overlay(ClientModel(SPEC, {**tensors(0), "m/B/0": torch.zeros(1)}))
        assert all(laid[name].equal(tensor) for name, tensor in tensors(i).items())
        assert clients[i].names == tensors(i).keys()
    on_disk = clients[299].slots["head"]
    assert isinstance(on_disk, OnDisk) and dumps(on_disk) == dumps({"head/w": tensors(299)["head/w"]})
    assert shelf(on_disk) is on_disk
    del on_disk, laid
    # A client that has learnt anew: what it had goes, and there is room in memory where one of the first goes.
    clients[0] = clients[0].trained(2, SPEC, tensors(1), shelf).accepted(2, ClientModel(SPEC, {}))
    clients[299] = clients[299].trained(2, SPEC, tensors(1), shelf).accepted(2, ClientModel(SPEC, {}))
    gc.collect()
    assert shelf.held == 10 * EACH and len(list(shelf.folder.iterdir())) == 2 * 290
    clients.clear()
    gc.collect()
    assert shelf.held == 0 and not list(shelf.folder.iterdir())


def test_a_file_that_a_running_process_has_replaced_is_named(tmp_path: Path) -> None:
    found = Shelf(tmp_path / "private", in_memory=0)(tensors(1))
    assert isinstance(found, OnDisk)
    found.path.write_bytes(b"other")
    with pytest.raises(RunFolderError, match=r"0\.safetensors was there and is so no longer: .*is the run still on"):
        found["head/w"]
    found.path.unlink()
    with pytest.raises(RunFolderError, match=r"0\.safetensors was there and is so no longer"):
        found["head/w"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole") / "r")


METHODS = ("fedalt", "feddpa")


def run(out: Path) -> Path:
    return small_run(out, method=METHODS[0], baselines=METHODS[1:], rounds=1, clients_per_round=2).out


def test_a_run_whose_private_tensors_are_on_disk_ends_in_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods that keep adapters, heads and anchors; no tensor of a client has room in memory."""
    put: list[Tensors] = []
    honest = Shelf.__call__

    def call(self: Shelf, values: Any) -> Tensors:
        self.in_memory = 0
        put.append(honest(self, values))
        return put[-1]

    monkeypatch.setattr(Shelf, "__call__", call)
    monkeypatch.setattr("fedlease.storage.state_files.IN_MEMORY", 0)
    out = run(tmp_path / "r")
    assert put and all(isinstance(one, OnDisk) for one in put)
    saved = Checkpoint(out).load()  # as resume and the readers of a finished run have it
    assert saved is not None and all(isinstance(one, OnDisk) for own in saved.private.values() for one in own.values())
    for folder in ("", *(f"baselines/{method}" for method in METHODS[1:])):
        assert tensors_of(out / folder) == tensors_of(whole / folder)
        for mine, others in zip(rounds_of(out / folder), rounds_of(whole / folder), strict=True):
            for client, entry in mine["clients"].items():
                assert entry.get("loss") == others["clients"][client].get("loss")
                assert entry.get("score") == others["clients"][client].get("score")
