"""A checkpoint gives back what was committed."""

from pathlib import Path

import torch

from fedlease.core.adapters import initial_adapter
from fedlease.methods.base import CommonState
from fedlease.methods.warmup import Warmup
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.saved import Saved


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
