"""Thousands of messages that no honest machine sends: a run ends as it would without them, or in one sentence.

Seeded, so that a failure repeats. ``FEDLEASE_FUZZ`` multiplies how many are tried.
"""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.hostile import ANY, BAD, is_one_sentence, mutated, recorded, reply_with
from flower.nodes import grid_of, kind_of
from flwr.app import Message

from fedlease import __version__
from fedlease.client.messages import Finish, Finished, Refused, Score, Scored, Train, Trained
from fedlease.core.aggregate import MAX_VALUE
from fedlease.core.types import ClientTask, TensorName
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RunFailedError
from fedlease.flower.connection import Connection, read
from fedlease.flower.handler import handle
from fedlease.flower.messages import Envelope, Introduction, Lacking
from fedlease.flower.node_trail import LOCK
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.transport import Checked, FlowerTransport
from fedlease.flower.wire import pack, unpack
from fedlease.server.transport import Traffic
from fedlease.storage.audit import AUDIT
from fedlease.tasks.classification import Classification

CLIENT = "planted-0-0"
TIMES = int(os.environ.get("FEDLEASE_FUZZ", "1"))
SMALL: dict[str, Any] = {"data.clients_per_task": 1, "baselines": [], "rounds": 1, "data.train_rows": 6}
METHODS = ("fedlease", "ifca", "feddpa")

Recorded = dict[str, tuple[list[Any], list[tuple[Any, Message, Message]], Connection]]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Method -> the server's messages to a node, and that node's replies, each with what was asked."""
    found: Recorded = {}
    with pytest.MonkeyPatch.context() as patch:
        asked = recorded(patch, CLIENT)
        connections: list[Connection] = []
        inner = FlowerTransport.send

        def send(self: FlowerTransport, requests: Any) -> Any:
            connections.append(self.connection)
            return inner(self, requests)

        patch.setattr(FlowerTransport, "send", send)
        for method in METHODS:
            settings = small_settings(**SMALL, method=method)
            grid, replies = grid_of(settings), list[tuple[Message, Message]]()

            def keep(message: Message, reply: Message, replies: Any = replies) -> Message:
                if message.metadata.dst_node_id == BAD and message.metadata.message_type != "query.hello":
                    replies.append((message, reply))
                return reply

            grid.faults.append(keep)
            asked.clear()
            FedLeaseStrategy(settings, tmp_path_factory.mktemp("honest") / "r").start(grid)
            values = [value for _, value in asked]
            assert len(values) == len(replies)
            pairs = [(value, *pair) for value, pair in zip(values, replies, strict=True)]
            end = values[-1]
            last = end.request
            assert isinstance(last, Finish)
            score = replace(end, request=Score(last.method, last.model, last.accepted, last.keeps))
            hello = replace(end, request=None)
            found[method] = [*values, score, hello], pairs, connections[-1]
        yield found


def test_replies(honest: Recorded) -> None:
    """Read and checked as the server does: an update that is right as a whole, or one sentence that says why not."""
    outcomes = {"refused": 0, "used": 0}
    for seed in range(450 * TIMES):
        rng = random.Random(seed)
        _, pairs, connection = honest[rng.choice(METHODS)]
        asked, message, reply = rng.choice(pairs)
        carried = FlowerTransport(connection, Traffic())
        checked = Checked(carried, connection.cards, Classification())
        odd = reply_with(message, mutated(reply.content, rng))
        request = asked.request
        assert isinstance(request, Train | Finish)
        found = read(odd, carried._size(CLIENT, request))
        outcome = checked.checked(connection.cards[CLIENT], request, found)
        if isinstance(outcome, Refused):
            outcomes["refused"] += 1
            assert is_one_sentence(outcome.reason), seed
        else:
            outcomes["used"] += 1
            _is_right(outcome, request)
    assert outcomes["refused"] > outcomes["used"] > 0


def _is_right(outcome: Any, asked: Any) -> None:
    """Written out once more, from what the run does with it."""
    if isinstance(outcome, Finished):
        outcome = outcome.scores
        assert all(abs(value) <= 1e9 for value in outcome.metrics.values())
        assert len(outcome.row_scores) == outcome.num_test == 8 and outcome.samples == ()
    else:
        assert isinstance(outcome, Trained)
        task: ClientTask = asked.task
        assert outcome.update.tensors.keys() == task.upload
        for name, tensor in outcome.update.tensors.items():
            assert tensor.shape == task.model.tensors[name].shape and float(tensor.abs().max()) <= MAX_VALUE
        assert 0 <= outcome.train_seconds <= 10**7 and abs(outcome.update.metrics["loss"]) <= 1e9
    assert len(json.dumps(outcome.notes)) < 20_000 and all(note.isprintable() for note in outcome.notes)


@pytest.mark.slow
def test_whole_runs(tmp_path: Path) -> None:
    """One odd reply in each: the others' result is that of a run in which the node was silent, or it was no fault."""
    settings = small_settings(**SMALL)
    kinds = ("train.warmup", "train.experts", "evaluate.finish")

    def run(out: Path, kind: str, change: Any) -> tuple[Any, dict[str, Any]]:
        grid = grid_of(settings)

        def fault(message: Message, reply: Message) -> Message | None:
            fits = (kind_of(message), message.metadata.dst_node_id) == (kind, BAD)
            replied: Message | None = change(message, reply) if fits else reply
            return replied

        grid.faults.append(fault)
        strategy = FedLeaseStrategy(settings, out)
        strategy.start(grid)
        assert (out / "report.html").is_file()
        return json.loads((out / "state/manifest.json").read_text())["state"], strategy.summaries["fedlease"]

    silent = {kind: run(tmp_path / kind, kind, lambda message, reply: None) for kind in kinds}
    refused = 0
    for seed in range(8 * TIMES):
        rng, out = random.Random(seed), tmp_path / str(seed)
        kind = kinds[seed % 3]
        # The second warm-up, in which a client is asked once more, has the same fault.
        state, summary = run(
            out, kind, lambda message, reply, rng=rng: reply_with(message, mutated(reply.content, rng))
        )
        wording = [why for r in rounds_of(out) for why in r["refused"].values()]
        assert all(map(is_one_sentence, wording)), seed
        if wording or len(summary["per_client"]) < 4:
            refused += 1
            if kind != "train.warmup":
                assert state == silent[kind][0], seed
                assert summary["per_client"] == silent[kind][1]["per_client"], seed
        assert all(0 <= row["accuracy"] <= 1 for row in summary["per_client"].values())
    assert refused > 2


def test_introductions(tmp_path: Path) -> None:
    settings, texts = small_settings(**SMALL), list[str]()
    for seed in range(25 * TIMES):
        rng, grid = random.Random(seed), grid_of(settings)

        def fault(message: Message, reply: Message, rng: random.Random = rng) -> Message:
            odd = message.metadata.message_type == "query.hello" and message.metadata.dst_node_id == BAD
            return reply_with(message, mutated(reply.content, rng)) if odd else reply

        grid.faults.append(fault)
        hello = Envelope("0" * 32, __version__, settings.model_dump_json(), _base(settings))
        connection = Connection(grid, hello, 10.0, 10.0)
        try:
            connection.wait(3, 5.0)
        except ConfigError as error:
            (wording,) = error.faults
            texts.append(wording)
        except RunFailedError as error:
            texts.append(str(error))
        assert len(connection.cards) in (3, 4) and all(len(card.labels) <= 1000 for card in connection.cards.values())
    assert len(texts) > 5 and all(map(is_one_sentence, texts))


def _base(settings: Any) -> str:
    from fedlease.models.fingerprints import fingerprint
    from fedlease.runs.open import load_run

    loaded = load_run(settings)
    return fingerprint(loaded.base, loaded.tokenizer)


def test_a_servers_messages(honest: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node answers as it should or refuses in one sentence; nothing is written elsewhere, nothing private leaves."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / "file").write_text("as it was")
    refused = other = 0
    for method in METHODS:
        settings = small_settings(**SMALL, method=method)
        grid = grid_of(settings, **{"state-dir": str(tmp_path / "state")})
        (data,) = [c for c in load_federation(settings.data, settings.seed, settings.task) if c.id == CLIENT]
        values = honest[method][0]
        for seed in range(60 * TIMES):
            rng = random.Random(f"{method} {seed}")
            content = mutated(pack(rng.choice(values)).record, rng)
            reply = handle(content, grid.contexts[BAD], None, None)
            value = unpack(reply, ANY)[0]
            if isinstance(value, Refused):
                refused += 1
                assert is_one_sentence(value.reason), seed
                assert "its app failed" not in value.reason, (method, seed, value.reason)
            else:
                other += 1
                assert isinstance(value, Trained | Finished | Scored | Lacking | Introduction), seed
                _keeps_to_itself(value)
            wording = str(reply.config_records["fedlease"]["tree"])
            assert not any(row.text in wording for row in (*data.train, *data.test)), seed
    assert {path.name for path in tmp_path.iterdir()} <= {"somebody's", "state"}
    assert (tmp_path / "somebody's" / "file").read_text() == "as it was"
    for folder in (tmp_path / "state").iterdir() if (tmp_path / "state").exists() else ():
        if folder.name in (AUDIT, LOCK):
            continue
        assert len(folder.name) == 32 and {path.name for path in folder.iterdir()} == {CLIENT}
    assert refused > other > 0


def _keeps_to_itself(value: Any) -> None:
    if isinstance(value, Finished):
        assert value.scores.samples == () and value.private is None
    if isinstance(value, Trained):
        assert {TensorName.parse(name).kind for name in value.update.tensors} <= {"A", "B", "G"}
        assert not any(name.startswith("head/") for name in value.update.tensors)
        assert all(isinstance(tensor, torch.Tensor) for tensor in value.update.tensors.values())
