"""What other machines say is bounded: in length, in number, and in what it does to a terminal."""

import json
import logging
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.hostile import BAD, is_one_sentence
from flower.nodes import grid_of, kind_of
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedlease.client.messages import FinalScores, Finish, Finished, Lacks, Refused, Score, Scored, Train, Trained
from fedlease.core.codec import _kinds
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, LocalTerm, Stage
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.flower import handler
from fedlease.flower.bounds import SHARE, count, line, number, shown
from fedlease.flower.handler import read_rejection
from fedlease.flower.messages import Envelope, Introduction, Lacking, Unusable
from fedlease.flower.proxies import proxies_notice
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import RecordError, pack, unpack

SMALL: dict[str, Any] = {"data.clients_per_task": 1, "baselines": [], "rounds": 1}
EVIL = "bad\x1b[2J\x1b]0;title\x07\n\u202eeman\x9b31m" + "x" * 5000


def test_what_is_shown_is_one_line_that_ends() -> None:
    for value in (EVIL, {EVIL: [EVIL] * 10**5}, (10**5000,), ["\ud800"], b"\x1b", None, "x" * 10**7):
        assert is_one_sentence(shown(value)), value
    assert shown("plain text, with äöü and 漢字") == "plain text, with äöü and 漢字"
    assert shown((0.5, "a")) == "(0.5, 'a')"


def test_single_values() -> None:
    assert number(0, 2).holds(1.5) and not any(map(number(0, 2).holds, (3, True, "1", None)))
    assert not any(map(number().holds, (float("inf"), float("nan"), 10**400)))
    assert count(0, 2).holds(2) and not any(map(count(0, 2).holds, (2.0, True, 3, -1)))
    assert SHARE.holds(1) and not SHARE.holds(1.0001) and not SHARE.holds(None)
    assert line().holds("a b") and not any(map(line().holds, ("a\nb", "\x1b", "\u202e", "\ud800", 5, "x" * 1001)))


def test_decoding_checks_the_type_of_every_field_of_a_message() -> None:
    """The rules of ``validation.py`` are for values of the right type; a type that cannot be read is not checked."""
    own = (Envelope, Introduction, Lacking, Unusable, Train, Score, Finish, Trained, Scored, Finished, Lacks, Refused)
    parts = (FinalScores, ClientCard, ClientTask, ClientModel, ClientUpdate, Stage, AdapterSpec, LocalTerm)
    unread = {cls.__name__ for cls in (*own, *parts) if _kinds(cls).keys() != {f.name for f in fields(cls)}}
    assert not unread


def test_arrays_arrive_bit_for_bit_and_a_shape_that_none_has_is_the_senders_fault() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 4, generator=generator)
    sent = {
        "whole": whole,
        "turned": whole.T,
        "empty": whole[:0],
        "single": whole[0, 0],
        "bits": whole.bfloat16(),
        "half": whole.half(),
        "counts": whole.long(),
    }
    received = unpack(pack(sent).record, 10**6)[0]
    for name, tensor in sent.items():
        assert received[name].dtype == tensor.dtype and torch.equal(received[name], tensor), name
    content = json.dumps({"value": None, "names": {"a": "x"}, "types": {}})
    for shape, numbers in (((-1, -1), 1), ((-1,), 0), ((0, 2**62), 0)):
        header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4 * numbers)
        arrays = ArrayRecord({"x": Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)})
        with pytest.raises(RecordError, match="array x"):
            unpack(RecordDict({"fedlease": ConfigRecord({"tree": content}), "arrays": arrays}), 10**6)


def with_answer(kind: str, change: Any) -> Any:
    """A fault: another answer of one node to one kind of message."""

    def fault(message: Message, reply: Message) -> Message:
        fits = kind_of(message) == kind and message.metadata.dst_node_id == BAD
        return change(message, reply) if fits else reply  # type: ignore[no-any-return]

    return fault


@pytest.mark.parametrize("by", ["refusal", "error"])
def test_a_nodes_words_steer_no_terminal(by: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from rich.console import Console

    from fedlease.reporting.terminal import Terminal

    def evil(message: Message, reply: Message) -> Message:
        if by == "error":
            return Message(Error(0, EVIL), reply_to=message)
        return Message(pack(Refused(EVIL)).record, reply_to=message)

    settings, out = small_settings(**SMALL), tmp_path / "out.txt"
    grid = grid_of(settings)
    grid.faults.append(with_answer("train.experts", evil))
    with out.open("w") as file:
        FedLeaseStrategy(settings, tmp_path / "r", [Terminal(Console(file=file), models_here=False)]).start(grid)
    (reason,) = [why for r in rounds_of(tmp_path / "r") for why in r["refused"].values()]
    assert is_one_sentence(reason) and ("31m" in reason or "bad" in reason)
    assert "\x1b" not in out.read_text() + caplog.text and "\x9b" not in out.read_text() + caplog.text


def test_nor_when_it_is_asked_who_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(**SMALL)
    grid = grid_of(settings)
    grid.faults.append(
        with_answer("query.hello", lambda message, reply: Message(pack(Refused(EVIL)).record, reply_to=message))
    )
    with pytest.raises(ConfigError) as caught:
        FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    assert all(map(is_one_sentence, caught.value.faults)) and "\x1b" not in caplog.text


def test_a_node_takes_nobody_else_out_of_the_run(tmp_path: Path) -> None:
    from fedlease.storage.environment import read_environment

    settings = small_settings(**{**SMALL, "data.clients": "skip", "flower.min_nodes": 3})
    for run, named in enumerate(("planted-1-0", EVIL)):
        odd, out = Unusable(named, "its rows cannot be used"), tmp_path / str(run)
        grid = grid_of(settings)
        grid.faults.append(
            with_answer("query.hello", lambda message, reply, odd=odd: Message(pack(odd).record, reply_to=message))
        )
        strategy = FedLeaseStrategy(settings, out)
        strategy.start(grid)
        assert strategy.summaries["fedlease"]["per_client"].keys() == {f"planted-{i}-0" for i in (1, 2, 3)}
        skipped = read_environment(out).skipped_clients
        assert "planted-1-0" not in skipped and all(map(is_one_sentence, (*skipped, *skipped.values())))


def test_nor_do_the_servers_words_on_a_node(caplog: pytest.LogCaptureFixture) -> None:
    read_rejection(pack(Refused(EVIL)).record)
    read_rejection(RecordDict())
    assert len(caplog.records) == 2 and "does not take this node: bad" in caplog.text
    assert "\x1b" not in caplog.text and all(is_one_sentence(record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        ({"labels": tuple(map(str, range(1001)))}, "labels must be at most 1000 lines"),
        ({"labels": tuple(map(str, range(2_000_000)))}, "characters of JSON, at most"),
        ({"labels": ("x" * 201,)}, "lines of at most 200 characters and all different (flower.max_labels)"),
        ({"labels": ("a", "a")}, "all different (flower.max_labels), received ('a', 'a')"),
        ({"labels": ("\x1b[2J",)}, "labels must be at most"),
        (
            {"train_rows": 10**12},
            "train_rows must be a whole number in 1 .. 1000000 (bounds.rows), received 1000000000000",
        ),
        ({"test_rows": 10**6}, "test_rows must be a whole number in 0 .. 500000, received 1000000"),
        ({"task": "\x1b[2J"}, "task must be one line"),
        ({"id": "a\x9bb"}, "client id"),
        ({"fingerprint": "f" * 10**6}, "fingerprint must be one line of at most 64 characters"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_card_is_bounded(change: dict[str, Any], wording: str, tmp_path: Path) -> None:
    settings = small_settings(**SMALL)
    grid = grid_of(settings)

    def odd(message: Message, reply: Message) -> Message:
        card = unpack(reply.content, 2**20)[0].card
        return Message(pack(Introduction(replace(card, **change))).record, reply_to=message)

    grid.faults.append(with_answer("query.hello", odd))
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    (fault,) = caught.value.faults
    assert wording in fault and is_one_sentence(fault) and time.monotonic() - begun < 100


def test_a_reply_far_larger_than_asked_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(**SMALL)
    grid = grid_of(settings)
    big = RecordDict({"fedlease": ConfigRecord({"tree": "[" + "[]," * 3_000_000 + "[]]"}), "arrays": ArrayRecord()})
    grid.faults.append(with_answer("train.experts", lambda message, reply: Message(big, reply_to=message)))
    read: list[int] = []
    monkeypatch.setattr("json.loads", _counted(read))
    FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    (why,) = [why for r in rounds_of(tmp_path / "r") for why in r["refused"].values()]
    assert "the message holds 9000004 characters of JSON, at most" in why and max(read) < 10**6


def _counted(lengths: list[int]) -> Any:
    import json

    inner = json.loads

    def loads(text: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(len(text))
        return inner(text, *args, **kwargs)

    return loads


def test_arrays_that_nothing_names_are_refused() -> None:
    import torch

    record = pack({"a": torch.ones(2)}).record
    extra = {**dict(record.array_records["arrays"]), "x": Array(torch.ones(1).numpy())}
    odd = RecordDict({"fedlease": record.config_records["fedlease"], "arrays": ArrayRecord(extra)})
    with pytest.raises(RecordError, match="holds 1 arrays that it does not name"):
        unpack(odd, 2**20)


class TestProxies:
    def test_one_line_names_the_variables_and_no_value(self) -> None:
        wording = proxies_notice(
            {"HTTPS_PROXY": "http://me:secret@proxy:3128", "all_proxy": "socks5://p", "HTTP_PROXY": ""}
        )
        assert wording.startswith("HTTPS_PROXY, all_proxy are set: this node reaches its server")
        assert "secret" not in wording and "NO_PROXY=127.0.0.1,localhost" in wording
        assert proxies_notice({"PATH": "/bin", "NO_PROXY": "x"}) == ""

    def test_a_node_says_it_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
        handler._log_once.cache_clear()
        settings = small_settings(**{**SMALL, "method": "local", "rounds": 0})
        with caplog.at_level(logging.WARNING, "flwr"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))
        assert caplog.text.count("HTTPS_PROXY") == 1 and "secret" not in caplog.text
