"""What a round costs as a federation grows: counted, not timed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedlease.core.adapters import initial_adapter
from fedlease.core.types import Budget
from fedlease.data.federation import ClientCard
from fedlease.methods.fedlease import FedLease
from fedlease.server.dry import DryTransport
from fedlease.server.events import Event, StepFinished
from fedlease.server.loop import RoundLoop
from fedlease.server.participation import Participation
from fedlease.server.transport import Channel
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.state_files import StateFiles

SAMPLED, ROUNDS = 5, 2


@dataclass
class Counted:
    """Per step: requests, tasks that were made, files, and bytes of the state; bytes of the run folder at the end."""

    requests: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    folder: int = 0


def run(clients: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """FedLEASE through warm-up in waves, allocation and rounds, with clients that make up their replies at once."""
    counted, blobs, asked, made = Counted(), list[int](), list[int](), list[str]()
    write, send, task = StateFiles.write, DryTransport.send, FedLease.task

    def sent(self: DryTransport, requests: Any) -> Any:
        asked.append(len(requests))
        return send(self, requests)

    monkeypatch.setattr(StateFiles, "write", lambda self, blob: blobs.append(len(blob)) or write(self, blob))
    monkeypatch.setattr(DryTransport, "send", sent)
    monkeypatch.setattr(FedLease, "task", lambda self, state, client: made.append(client) or task(self, state, client))

    def hear(event: Event) -> None:
        if isinstance(event, StepFinished):
            for kept, found in (
                (counted.requests, sum(asked)),
                (counted.tasks, len(made)),
                (counted.files, len(blobs)),
                (counted.written, sum(blobs)),
            ):
                kept.append(found)
            asked.clear()
            made.clear()
            blobs.clear()

    adapter = initial_adapter({f"m{i}": (128, 128) for i in range(2)}, r=8, alpha=16, dropout=0.0, seed=0)
    names = [f"c{i:04}" for i in range(clients)]
    cards = {name: ClientCard(name, "t", ("a", "b"), False, 8, 0, 0, "") for name in names}
    dry = DryTransport(cards, adapter, 4)
    method, participation = FedLease(Budget(1, ROUNDS)), Participation(SAMPLED, score_rounds=False)
    loop = RoundLoop("fedlease", method, Channel(dry, dry.traffic), participation, Checkpoint(out), [hear], 0)
    loop.run(adapter)
    counted.folder = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return counted


def test_a_round_asks_and_writes_no_more_than_in_proportion_to_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty clients and three times as many, five of them a step. A and B are 2 x 2 x 8 x 128 values, 16 KiB."""
    few, many = (run(count, tmp_path / str(count), monkeypatch) for count in (20, 60))
    for count, found in ((20, few), (60, many)):
        waves = count // SAMPLED
        assert found.requests == [SAMPLED] * (waves + ROUNDS), "whatever their number"
        assert found.tasks[-ROUNDS:] == [SAMPLED] * ROUNDS, "those of clients that are asked alone"
        # A wave writes its five clients and what the server notes of them, and the rest; the first the start, too.
        assert max(found.files[: waves - 1]) <= 2 * SAMPLED + 3
        assert max(found.written[: waves - 1]) < 2 * SAMPLED * 2**14, "not the clients of earlier waves"
    assert max(many.written[-ROUNDS:]) < 3 * max(few.written[-ROUNDS:])
    assert many.folder < 3 * few.folder
