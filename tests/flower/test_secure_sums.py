"""Secure sums over a grid: the same result as in one process, and a node that sends nothing without masks."""

import random
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from small import rounds_of, small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.hostile import BAD, asked_of, is_one_sentence, mutated, reply_with
from flower.nodes import Stopped, comparable, grid_of, kind_of, over_memory
from flwr.app import Message

from fedlease.client.messages import Masked, Refused, Trained
from fedlease.client.secure_sums import Member
from fedlease.client.sum_messages import AskKeys, AskShares, SumKeys, SumSeeds, SumShares
from fedlease.errors import ConfigError
from fedlease.flower.connection import Size, read
from fedlease.flower.handler import handle
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.messages import Introduction, Lacking
from fedlease.flower.node_sums import Peers
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import unpack
from fedlease.server.events import StepFinished
from fedlease.server.group_sum import GroupSum, Rules
from fedlease.server.loop import RoundLoop
from fedlease.storage.audit import read_trail

SUMS: dict[str, Any] = {"privacy.secure_sums": True, "data.clients_per_task": 2, "max_experts": 2, "rounds": 1}
ONE: dict[str, Any] = {"privacy.secure_sums": True, "method": "fedit", "rounds": 0}
"""A single round, of four clients."""


@pytest.mark.parametrize("sketch", [None, 64])
def test_the_result_is_that_of_one_process_and_nothing_unmasked_comes_after_the_warm_up(
    tmp_path: Path, sketch: int | None
) -> None:
    seen: list[tuple[str, Any]] = []

    def watch(message: Message, reply: Message) -> Message:
        seen.append((kind_of(message), unpack(reply.content, 2**20)[0]))
        return reply

    settings = {**SUMS, "privacy.sketch": sketch}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(
        small_settings(**settings), tmp_path / "there", prepare=lambda grid: grid.faults.append(watch)
    )
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)
    assert {type(value) for kind, value in seen if kind == "train.warmup"} == {Trained}
    assert {type(value) for kind, value in seen if kind == "train.experts"} == {Masked}
    # Nobody has vanished, so that no share of a key was given out.
    assert not any(value.keys for _, value in seen if isinstance(value, SumSeeds))
    kinds = [line["kind"] for line in read_trail(tmp_path / "there" / "audit.jsonl")]
    assert kinds.count("received") == 8 and kinds.count("summed") == (8 if sketch is None else 16)
    if sketch is not None:
        # Of a client alone the server has read 64 numbers, and no module's A.
        warm = [value.update.tensors for kind, value in seen if kind == "train.warmup"]
        assert all(sum(tensor.numel() for tensor in tensors.values()) == 64 for tensors in warm)
        assert {type(value) for kind, value in seen if kind == "train.start"} == {Masked}


def test_a_node_that_vanishes_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    def lost(message: Message, reply: Message) -> Message | None:
        return None if kind_of(message) == "train.federated" and message.metadata.dst_node_id == 900 else reply

    def prepare(grid: MemoryGrid) -> None:
        grid.faults.append(lost)

    over_memory(small_settings(**ONE), tmp_path / "run", prepare=prepare)
    (line,) = rounds_of(tmp_path / "run")
    assert len(line["refused"]) == 1 and len(line["clients"]) == 3


def test_a_node_refuses_a_server_that_stops_asking_for_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The node's owner demands secure sums, whatever the settings of the server say.
    config: dict[str, Any] = {"secure-sums": True, "data-folders": "/"}
    with pytest.raises(ConfigError, match="refused by its node's rule secure-sums"):
        over_memory(small_settings(**ONE | {"privacy.secure_sums": False}), tmp_path / "r", hand_over=False, **config)
    assert "privacy.secure_sums: must be true (secure-sums), received False" in caplog.text


def test_a_node_that_knows_the_others_keys_takes_no_part_where_the_server_puts_its_own(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    peers.mkdir()
    clients = ("a", "b", "c")
    for client in clients:
        write_key(tmp_path / client, peers / f"{client}.pub")
    members = {c: Member(c, notary=Peers(tmp_path / c, peers)) for c in clients}
    ask = AskKeys("fedit", 1, "5" * 32, clients, 2, True, 1e-7, 6)
    keys: Any = {client: member.tell(ask) for client, member in members.items()}
    forged = replace(keys["c"], mask="1" * 64)
    unsigned = replace(keys["c"], signature="")
    # Signed by c, for another sum; and by b in the name of c.
    earlier: Any = Member("c", notary=Peers(tmp_path / "c", peers)).tell(replace(ask, session="6" * 32))
    posed: Any = Member("c", notary=Peers(tmp_path / "b", peers)).tell(ask)
    for odd in (forged, unsigned, earlier, posed):
        victim = Member("a", notary=Peers(tmp_path / "a", peers))
        own = victim.tell(ask)
        told = victim.tell(AskShares("fedit", 1, ask.session, {**keys, "a": own, "c": odd}))
        assert isinstance(told, Refused)
        assert "the keys of 'c' are not signed by a key that this node knows it by (peers)" in told.reason
    assert isinstance(members["a"].tell(AskShares("fedit", 1, ask.session, keys)), SumShares)


def test_a_step_that_was_stopped_before_it_was_recorded_is_summed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, commit, steps = small_settings(**ONE | {"rounds": 1}), RoundLoop._commit, count(1)

    def stopped(self: RoundLoop, *step: Any) -> Any:
        if next(steps) == 2:
            raise Stopped
        return commit(self, *step)

    monkeypatch.setattr(RoundLoop, "_commit", stopped)
    grid = grid_of(settings, one_machine=True)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "run", hand_over=True).start(grid)
    FedLeaseStrategy(settings, tmp_path / "run", hand_over=True).start(grid)
    small_run(tmp_path / "whole", **ONE | {"rounds": 1})
    assert tensors_of(tmp_path / "run") == tensors_of(tmp_path / "whole")


def test_a_node_that_has_lost_what_it_should_keep_is_sent_it_within_its_sum(tmp_path: Path) -> None:
    # The frozen factors of fed-sb come down once; a node that comes back without memory has them no more.
    settings = small_settings(method="fed-sb", privacy__secure_sums=True)
    grid = grid_of(settings, one_machine=True)

    def forget(event: object) -> None:
        if isinstance(event, StepFinished) and event.record["round"] == 1:
            config = dict(grid.contexts[BAD].node_config)
            grid.leave(BAD)
            grid.join(BAD + 1, config)

    FedLeaseStrategy(settings, tmp_path / "run", [forget], hand_over=True).start(grid)
    last = rounds_of(tmp_path / "run")[-1]
    assert last["round"] == 2 and last["refused"] == {} and len(last["clients"]) == 4


def test_odd_messages_of_a_sum_are_refused_in_one_sentence_and_odd_replies_spoil_nothing(tmp_path: Path) -> None:
    honest: list[tuple[Message, Message]] = []
    tasks: list[Message] = []

    def keep(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == BAD and message.metadata.message_type == "query.sum":
            honest.append((message, reply))
        if message.metadata.dst_node_id == BAD and message.metadata.message_type == "train.task":
            tasks.append(message)
        return reply

    _, grid = over_memory(small_settings(**ONE), tmp_path / "r", prepare=lambda grid: grid.faults.append(keep))
    assert len(honest) == 3
    (envelope,) = (unpack(message.content, 2**20)[0] for message in tasks)
    warmup = replace(envelope.request.task, phase="warmup")
    for method, why in (("ifca", "ifca is no method of this run"), ("fedit", "no warm-up after it has sent masked")):
        asked = replace(envelope, request=replace(envelope.request, method=method, task=warmup, masking=None))
        assert why in asked_of(grid, BAD, asked).reason
    outcomes = Counter[str]()
    for seed in range(90):
        rng, (message, reply) = random.Random(seed), honest[seed % 3]
        told = unpack(handle(mutated(message.content, rng), grid.contexts[BAD], None, None), 2**20)[0]
        assert isinstance(told, SumKeys | Lacking | Introduction) or is_one_sentence(told.reason), seed
        outcomes[type(told).__name__] += 1
        found = read(reply_with(message, mutated(reply.content, rng)), Size(tree=2**16))
        one = GroupSum(dict.fromkeys("abc"), {}, Rules(1e-7, 1 / 3, weighted=True))  # type: ignore[arg-type]
        one._keys.update(dict.fromkeys("abc"))  # type: ignore[arg-type]
        for take in (one.take_keys, one.take_shares, one.take_seeds):
            take("a", found)
    assert outcomes["Refused"] > 60


def write_key(path: Path, public: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
