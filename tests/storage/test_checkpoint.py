"""A checkpoint gives back what was committed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedlease.core.adapters import initial_adapter
from fedlease.core.types import Allocation
from fedlease.errors import RunFolderError
from fedlease.methods.base import CommonState
from fedlease.methods.warmup import Warmup
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.saved import Saved
from fedlease.storage.state_files import StateFiles


def test_a_checkpoint_gives_back_what_was_committed_and_keeps_only_that(tmp_path: Path) -> None:
    adapter = initial_adapter({"m": (4, 4)}, r=2, alpha=4, dropout=0.0, seed=0)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.load() is None
    for step in range(3):
        state = CommonState(round=step, adapter=adapter, clients={"a": 1}, warmup=Warmup({"a": {}}))
        private = {"a": {"head": {"head/w": torch.full((2,), float(step))}}}
        checkpoint.commit(Saved("local", step, state, private, {"bytes_up": step}), {"step": step})
    saved = Checkpoint(tmp_path).load()
    assert saved is not None and saved.step == 2 and saved.state.round == 2
    assert saved.private["a"]["head"]["head/w"].tolist() == [2, 2]
    assert len(list((tmp_path / "state").iterdir())) == 3
    assert (tmp_path / "rounds.jsonl").read_text().splitlines() == ['{"step": 0}', '{"step": 1}', '{"step": 2}']


def test_a_wave_of_the_warm_up_writes_its_own_clients_and_not_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four waves of five clients with 16 KiB each: five files and the rest, in the last wave as in the first."""
    written: list[int] = []
    write = StateFiles.write
    monkeypatch.setattr(StateFiles, "write", lambda self, blob: written.append(len(blob)) or write(self, blob))
    adapter, checkpoint = initial_adapter({"m": (4, 4)}, r=2, alpha=4, dropout=0.0, seed=0), Checkpoint(tmp_path)
    results: dict[str, Any] = {}
    for wave in range(4):
        results |= {f"c{wave}{i}": {"m/A/0": torch.full((2**12,), float(10 * wave + i))} for i in range(5)}
        written.clear()
        state = CommonState(round=0, adapter=adapter, clients=dict.fromkeys(results, 1), warmup=Warmup(dict(results)))
        checkpoint.commit(Saved("local", wave, state, {}))
        assert len(written) == 6 and sum(written) < 6 * 2**14, "20 clients would be 20 x 2^14"
    saved = Checkpoint(tmp_path).load()
    assert saved is not None and float(saved.state.warmup.results["c34"]["m/A/0"][0]) == 34


def test_what_a_step_leaves_as_it_was_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """512 clients: 2 MiB of distances, and of 512 private heads one that changes."""
    clients = [f"c{i:03}" for i in range(512)]
    d = torch.arange(512 * 512, dtype=torch.float64).view(512, 512)
    allocation = Allocation(1, dict.fromkeys(clients, 0), {}, d, clients)
    adapter = initial_adapter({"m": (4, 4)}, r=2, alpha=4, dropout=0.0, seed=0)
    heads: dict[str, Any] = {
        client: {"head": {"head/w": torch.full((2,), float(i))}} for i, client in enumerate(clients)
    }
    written: list[int] = []
    write = StateFiles.write
    monkeypatch.setattr(StateFiles, "write", lambda self, blob: written.append(len(blob)) or write(self, blob))
    checkpoint = Checkpoint(tmp_path)
    for step in range(2):
        state = CommonState(round=step, adapter=adapter, clients=dict.fromkeys(clients, 1), allocation=allocation)
        heads[clients[7]] = {"head": {"head/w": torch.full((2,), 1000.0 + step)}}
        written.clear()
        checkpoint.commit(Saved("local", step, state, heads))
        assert len(written) == (514, 2)[step], "all heads, the distances, the rest; then one head, and the rest"
    assert max(written) < d.nbytes / 20
    saved = Checkpoint(tmp_path).load()
    assert saved is not None and saved.state.allocation.distances.equal(d)
    assert saved.private[clients[7]]["head"]["head/w"].tolist() == [1001, 1001]
    assert len(list((tmp_path / "state").iterdir())) == 515  # 512 heads, distances, state, manifest
    checkpoint.clean()
    checkpoint.commit(saved)
    assert Checkpoint(tmp_path).load() is not None
    largest = max((tmp_path / "state").iterdir(), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(RunFolderError, match=f"{largest.name} is named by the manifest and cannot be read"):
        Checkpoint(tmp_path).load()
