"""What nodes and networks do wrong: each ends in a finished run without the faulty update, or in a clear stop."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import Stopped, grid_of, kind_of, over_memory, stop_after
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedlease.client.messages import Trained
from fedlease.core.codec import loads
from fedlease.core.types import TensorName
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, DataError, RunFailedError, RunFolderError
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import pack, unpack
from fedlease.tasks.classification import Classification

NODES = {900 - i: f"planted-{i // 2}-{i % 2}" for i in range(8)}
"""Node ids count down from 900, clients up."""
BAD, CLIENT = 900, "planted-0-0"
HONEST = "planted-3-1"
"""The last one, where every other client sends a fault of its own."""

Change = Callable[[Trained], Trained]
What = Callable[[Message, Message], Message | None]


def of_round(message: Message, number: int) -> bool:
    return kind_of(message) == ("train.warmup" if number == 0 else "train.experts")


def nth(wanted: int, number: int, what: What, node: int = BAD) -> What:
    """A fault of one node in its ``wanted``-th train message of the warm-up (0) or the rounds (1)."""
    seen = 0

    def fault(message: Message, reply: Message) -> Message | None:
        nonlocal seen
        if reply.metadata.src_node_id != node or not of_round(message, number):
            return reply
        seen += 1
        return what(message, reply) if seen == wanted else reply

    return fault


def sevens(names: Iterable[str]) -> list[list[str]]:
    """Faults for runs in which every client but the last sends one."""
    left = iter(names)
    return [batch for batch in iter(lambda: list(islice(left, 7)), [])]


def refusals(records: Sequence[dict[str, Any]]) -> dict[tuple[int, str], str]:
    """(round, client) -> reason."""
    return {(r["round"], client): why for r in records for client, why in r["refused"].items()}


def assert_refused(sent: dict[str, tuple[What, str]], number: int, tmp_path: Path) -> None:
    """Every client sends one of these messages once, is refused for the reason beside it, and takes part again."""
    nodes = dict(zip(NODES, sent, strict=False))
    summary, records = run(tmp_path, *(nth(1, number, sent[name][0], node) for node, name in nodes.items()))
    refused = refusals(records)
    assert refused.keys() == {(number, NODES[node]) for node in nodes}
    found = {name: refused[number, NODES[node]] for node, name in nodes.items()}
    assert not {name: why for name, why in found.items() if sent[name][1] not in why}
    # After a refused warm-up it was asked once more.
    assert summary["assignment"].keys() == set(NODES.values()) and summary["num_clients"] == 8


def changed(change: Change) -> Callable[[Message, Message], Message]:
    """The reply with another update in it."""

    def what(message: Message, reply: Message) -> Message:
        answer = unpack(reply.content, 2**30)[0]
        return Message(pack(change(answer)).record, reply_to=message)

    return what


def update(**changes: Any) -> Change:
    return lambda answer: replace(answer, update=replace(answer.update, **changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    return lambda answer: replace(answer, update=replace(answer.update, tensors=change(dict(answer.update.tensors))))


def run(tmp_path: Path, *faults: Any, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def spoil(grid: MemoryGrid) -> None:
        grid.faults += faults

    settings = small_settings(baselines=[], **changes)
    summaries, _ = over_memory(settings, tmp_path / "r", prepare=spoil, hand_over=False)
    return summaries["fedlease"], rounds_of(tmp_path / "r")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The run without any fault: its summary and its folder."""
    folder = tmp_path_factory.mktemp("honest")
    return run(folder)[0], folder / "r"


def state_at(out: Path) -> Any:
    """What the manifest says of the state."""
    return json.loads((out / "state/manifest.json").read_text())["state"]


def spoilt(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = min(values)
    return {**values, first: torch.full_like(values[first], float("nan"))}


def renamed(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As if it had trained another expert."""
    parsed = {TensorName.parse(name): tensor for name, tensor in values.items()}
    return {
        str(name if name.expert is None else name._replace(expert=name.expert + 1)): tensor
        for name, tensor in parsed.items()
    }


FAULTS: dict[str, tuple[Change, str]] = {
    "nan": (tensors(spoilt), "NaN or infinite"),
    "missing": (tensors(lambda values: dict(list(values.items())[1:])), "missing ["),
    "unasked": (tensors(lambda values: {**values, "head/extra": torch.zeros(1)}), "not asked for ['head/extra']"),
    "shape": (tensors(lambda values: {n: t[:1] for n, t in values.items()}), "has shape"),
    "dtype": (tensors(lambda values: {n: t.double() for n, t in values.items()}), "has dtype torch.float64"),
    "half": (tensors(lambda values: {n: t.bfloat16() for n, t in values.items()}), "has dtype torch.bfloat16"),
    "expert": (tensors(renamed), "tensor names differ"),
    "negative": (update(num_examples=-12), "num_examples must be an integer in 1 .."),
    "zero": (update(num_examples=0), "num_examples must be an integer in 1 .."),
    "absurd": (update(num_examples=10**12), "num_examples is 1000000000000, the client announced 12"),
    "false": (update(num_examples=13), "num_examples is 13, the client announced 12"),
    "other": (update(client=HONEST), f"update is from client '{HONEST}'"),
    "round": (update(round=7), "round 7, expected 'experts' round 1"),
    "loss": (update(metrics={}), "metrics must be the loss alone, a number in -1e+09 .. 1e+09, received {}"),
    "choice": (update(choice=3), "choice must be None, there are no candidates, received 3"),
    "many": (lambda answer: replace(answer, steps=10**400), "steps must be a whole number in 0 .. 12, received"),
    "half a letter": (lambda answer: replace(answer, notes=("\ud800",)), "notes must be at most 16 lines"),
    "endless notes": (lambda answer: replace(answer, notes=("x" * 10**6,)), "characters of JSON, at most"),
    "steps": (lambda answer: replace(answer, steps=-1), "steps must be a whole number in 0 .. 12, received -1"),
    "a large loss": (
        update(metrics={"loss": 1e300}),
        "metrics must be the loss alone, a number in -1e+09 ..",
    ),
    "more figures": (update(metrics={"loss": 1.0, "x": 1.0}), "metrics must be the loss alone"),
    "huge": (tensors(lambda values: {n: t + 1e30 for n, t in values.items()}), "holds values beyond 1e+06"),
    "centuries": (lambda answer: replace(answer, train_seconds=1e308), "train_seconds must be a number in 0 .. 1e+07"),
    "unable": (lambda answer: replace(answer, steps=13), "steps must be a whole number in 0 .. 12, received 13"),
    "long notes": (lambda answer: replace(answer, notes=("x" * 2000,)), "notes must be at most 16 lines"),
    "many notes": (lambda answer: replace(answer, notes=("x",) * 100), "notes must be at most 16 lines"),
    "escape": (lambda answer: replace(answer, notes=("\x1b[2J",)), "notes must be at most 16 lines"),
    "score": (
        lambda answer: replace(answer, score=float("inf")),
        "score must be a number in 0 .. 1 or none",
    ),
    "update": (lambda answer: replace(answer, update=None), "Trained.update cannot be a NoneType"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("names", sevens(FAULTS), ids="-".join)
def test_faulty_updates_are_refused_by_name_and_the_run_ends(names: list[str], tmp_path: Path) -> None:
    assert_refused({name: (changed(FAULTS[name][0]), FAULTS[name][1]) for name in names}, 1, tmp_path)
    state = loads((tmp_path / "r/state" / state_at(tmp_path / "r")["file"]).read_bytes())
    assert all(bool(t.isfinite().all()) for expert in state.inner.experts for t in expert.values())


def garbled(message: Message, reply: Message) -> Message:
    record = RecordDict({"fedlease": ConfigRecord({"tree": "{not json"}), "arrays": ArrayRecord()})
    return Message(record, reply_to=message)


def oversized(message: Message, reply: Message) -> Message:
    big = ArrayRecord({"x": Array(torch.zeros(2**20, dtype=torch.float32).numpy())})
    return Message(RecordDict({"fedlease": ConfigRecord({"tree": "{}"}), "arrays": big}), reply_to=message)


def mislabelled(message: Message, reply: Message) -> Message:
    """Values under the name of others."""
    arrays = dict(reply.content.array_records["arrays"])
    first = min(arrays)
    arrays[first] = Array(arrays[first].numpy() + 1)
    config = reply.content.config_records["fedlease"]
    return Message(RecordDict({"fedlease": config, "arrays": ArrayRecord(arrays)}), reply_to=message)


UNUSABLE: dict[str, tuple[What, str]] = {
    "garbled": (garbled, "the message's JSON is malformed"),
    "oversized": (oversized, "bytes of arrays, at most"),
    "mislabelled": (mislabelled, "does not hold what its name says"),
    "empty": (lambda message, reply: Message(RecordDict(), reply_to=message), "has no fedlease record"),
    "error": (lambda message, reply: Message(Error(0, "killed\nout of memory"), reply_to=message), "out of memory"),
    "late": (lambda message, reply: None, "did not answer within 3600 s (flower.deadline)"),
}


@pytest.mark.parametrize("number", [0, 1])
def test_a_message_that_cannot_be_used_costs_its_client_the_step(number: int, tmp_path: Path) -> None:
    assert_refused(UNUSABLE, number, tmp_path)


def record(tree: str, **arrays: Array) -> RecordDict:
    return RecordDict({"fedlease": ConfigRecord({"tree": tree}), "arrays": ArrayRecord(arrays)})


def with_header(header: bytes) -> Array:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 4
    return Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=data)


ONE = json.dumps({"value": None, "names": {"a": "x"}, "types": {}})


HARMFUL: dict[str, tuple[RecordDict, str]] = {
    "names": (
        record(json.dumps({"value": None, "names": {"a": [1]}, "types": {}})),
        "names of arrays must be texts",
    ),
    "huge": (
        record(ONE, x=with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }\n")),
        "is not of the type and shape that the message states",
    ),
    "brackets": (record(ONE, x=with_header(b"{'descr': ('<f4'\n")), "array x cannot be read"),
    "stype": (
        record(ONE, x=Array(dtype="float32", shape=(1,), stype="other", data=b"\0" * 4)),
        "array x cannot be read",
    ),
    "deep": (
        record('{"value":' + "[" * 900 + "]" * 900 + ',"names":{},"types":{}}'),
        "malformed state: RecursionError",
    ),
}


def test_bytes_made_to_break_the_reader_are_the_senders_fault(tmp_path: Path) -> None:
    def sends(content: RecordDict) -> What:
        return lambda message, reply: Message(content, reply_to=message)

    assert_refused({name: (sends(content), reason) for name, (content, reason) in HARMFUL.items()}, 1, tmp_path)


FALSE_SCORES: list[dict[str, Any]] = [
    {"row_scores": None},
    {"row_scores": "01"},
    {"metrics": None},
    {"metrics": {}},
    {"metrics": {"accuracy": 1e9}},
    {"notes": None},
    {"usage": {"layer": 3}},
    {"num_test": 3},
    {"majority": float("nan")},
    {"metrics": {"accuracy": 10**400}},
    {"num_test": 10**400},
    {"choice": "first"},
    {"choice": 3},
    {"samples": ({"prompt": 5},)},
    {"samples": ({"prompt": "\ud800"},)},
    {"samples": 5},
    {"samples": ({"reference": "r", "base": "b", "answer": "a"},)},
    {"usage": "shorter"},
    {"usage": "other modules"},
    {"usage": None},
    {"own_expert": None},
    {"metrics": {"accuracy": 0.5}},
    {"metrics": {"accuracy": 0.5, "macro_f1": 0.5, "mcc": 0.5, "loss": 1e300}},
    {"metrics": {"accuracy": 0.5, "macro_f1": 0.5, "mcc": 0.5, "loss": 1.0, "mine": 0.5}},
    {"notes": ("\x1b]0;x\x07",)},
]


@pytest.mark.parametrize("first", range(0, len(FALSE_SCORES), 7))
def test_false_final_scores_are_left_out_by_name(first: int, tmp_path: Path) -> None:
    sent = dict(zip(NODES, FALSE_SCORES[first : first + 7], strict=False))

    def fault(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != "evaluate.finish" or reply.metadata.src_node_id not in sent:
            return reply
        finished = unpack(reply.content, 2**30)[0]
        scores = finished.scores
        new = dict(sent[reply.metadata.src_node_id])
        if new.get("usage") == "shorter":
            new["usage"] = {m: {**row, "weights": row["weights"][:-1]} for m, row in scores.usage.items()}
        elif new.get("usage") == "other modules":
            new["usage"] = {f"{module}.x": row for module, row in scores.usage.items()}
        return Message(pack(replace(finished, scores=replace(scores, **new))).record, reply_to=message)

    summary, _ = run(tmp_path, fault)
    faulty = {NODES[node]: change for node, change in sent.items()}
    wording = {client for client in faulty for line in summary["warnings"] if client in line and "not scored" in line}
    assert not {client: change for client, change in faulty.items() if client not in wording}
    assert summary["left_out"].keys() == faulty.keys()
    assert summary["per_client"].keys() == set(NODES.values()) - faulty.keys()
    assert (summary["averaged"], summary["num_clients"]) == (8 - len(faulty), 8)


def test_the_score_of_a_refused_update_is_not_in_the_mean(tmp_path: Path) -> None:
    _, records = run(tmp_path, nth(1, 1, changed(lambda a: replace(a, score=1.0, update=replace(a.update, round=9)))))
    (spoilt_round,) = [r for r in records if r["refused"]]
    others = [entry["score"] for client, entry in spoilt_round["clients"].items() if client != CLIENT]
    assert spoilt_round["mean_score"] == pytest.approx(sum(others) / 7)


def test_bytes_of_a_client_that_did_not_reply_are_not_counted(tmp_path: Path) -> None:
    _, records = run(tmp_path, nth(1, 1, lambda message, reply: None))
    assert records[1]["bytes_up"] * 8 == records[2]["bytes_up"] * 7


class TestRestart:
    """The server is started again after round 1, and the nodes are not those of before."""

    def begun(self, out: Path, **changes: Any) -> tuple[Any, MemoryGrid]:
        settings = small_settings(baselines=[], rounds=3, **changes)
        grid = grid_of(settings)
        with pytest.raises(Stopped):
            FedLeaseStrategy(settings, out, [stop_after(1)]).start(grid)
        return settings, grid

    def test_a_client_that_is_away_is_still_one_of_the_run(self, tmp_path: Path) -> None:
        settings, grid = self.begun(tmp_path / "r")
        grid.leave(BAD)
        strategy = FedLeaseStrategy(settings, tmp_path / "r")
        strategy.start(grid)
        refused = [(r["round"], r["refused"]) for r in rounds_of(tmp_path / "r") if r["refused"]]
        assert refused == [(2, {CLIENT: "is not connected"}), (3, {CLIENT: "is not connected"})]
        assert CLIENT in json.loads((tmp_path / "r/clients.json").read_text())
        assert CLIENT in strategy.summaries["fedlease"]["assignment"]

    def test_one_that_came_meanwhile_is_a_newcomer(self, tmp_path: Path) -> None:
        from fedlease.data.load import load_federation
        from fedlease.data.sources.folder import write_folder

        settings, grid = self.begun(tmp_path / "r")
        rows = write_folder([next(iter(load_federation(settings.data, 1)))], tmp_path / "rows")
        grid.join(5, {"data-dir": str(rows / CLIENT), "client-id": "new"})
        strategy = FedLeaseStrategy(settings, tmp_path / "r")
        strategy.start(grid)
        state = loads((tmp_path / "r/state" / state_at(tmp_path / "r")["file"]).read_bytes())
        assert state.inner.newcomers == {"new"} and "new" in state.inner.clients
        assert "new" in json.loads((tmp_path / "r/clients.json").read_text())

    def test_one_that_comes_back_with_other_rows_is_rejected(self, tmp_path: Path) -> None:
        from fedlease.data.load import load_federation
        from fedlease.data.sources.folder import write_folder

        settings, grid = self.begun(tmp_path / "r")
        other = next(iter(load_federation(settings.data, 1)))
        rows = write_folder([other], tmp_path / "rows")
        grid.join(BAD, {"data-dir": str(rows / CLIENT), "client-id": CLIENT})
        with pytest.raises(ConfigError, match=r"client 'planted-0-0' came back with other rows or labels"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_one_whose_base_model_has_changed_since_is_refused(self, tmp_path: Path) -> None:
        from fedlease.models.tiny import make_tiny

        make_tiny(tmp_path / "model", seed=5)
        settings = small_settings(baselines=[])
        grid = grid_of(settings)

        def change(event: Any) -> None:
            if type(event).__name__ == "StepFinished" and event.record["round"] == 0:
                grid.contexts[BAD].node_config["model"] = str(tmp_path / "model")

        FedLeaseStrategy(settings, tmp_path / "r", [change]).start(grid)
        reasons = [r["refused"].get(CLIENT, "") for r in rounds_of(tmp_path / "r")]
        assert reasons[0] == "" and all("is not the server's" in why for why in reasons[1:])


def test_what_the_settings_say_is_refused_as_an_argument(tmp_path: Path) -> None:
    settings = small_settings()
    with pytest.raises(ConfigError, match=r"start: takes the grid alone"):
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings), num_rounds=3)


def test_a_repeated_reply_counts_once(honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The round that hears an answer twice gives what the round that hears it once gives."""
    settings = small_settings(baselines=[])
    grid = grid_of(settings)
    inner = grid.send_and_receive
    grid.send_and_receive = lambda messages, *, timeout=None: [  # type: ignore[method-assign]
        reply for reply in inner(messages, timeout=timeout) for _ in range(2)
    ]
    strategy = FedLeaseStrategy(settings, tmp_path / "two")
    strategy.start(grid)
    assert state_at(tmp_path / "two") == state_at(honest[1])
    assert strategy.summaries["fedlease"]["mean"] == honest[0]["mean"]


def test_a_reply_of_the_round_before_is_refused(tmp_path: Path) -> None:
    kept: list[Message] = []

    def fault(message: Message, reply: Message) -> Message:
        if reply.metadata.src_node_id != BAD or not of_round(message, 1):
            return reply
        kept.append(reply)
        return Message(kept[0].content, reply_to=message)

    _, records = run(tmp_path, fault)
    reasons = [why for r in records for why in r["refused"].values()]
    assert reasons == ["update belongs to 'experts' round 1, expected 'experts' round 2"]


@pytest.mark.parametrize("when", ["warm-up", "round", "after upload"])
def test_a_node_that_dies_is_left_out_from_then_on(when: str, tmp_path: Path) -> None:
    grids: list[MemoryGrid] = []

    def fault(message: Message, reply: Message) -> Message | None:
        number = 0 if when == "warm-up" else 1
        if reply.metadata.src_node_id != BAD or not of_round(message, number):
            return reply
        del grids[0].contexts[BAD]
        return reply if when == "after upload" else None

    def spoil(grid: MemoryGrid) -> None:
        grids.append(grid)
        grid.faults.append(fault)

    summaries, _ = over_memory(small_settings(baselines=[]), tmp_path / "r", prepare=spoil, hand_over=False)
    summary, records = summaries["fedlease"], rounds_of(tmp_path / "r")
    refused = [(r["round"], why) for r in records for client, why in r["refused"].items() if client == CLIENT]
    assert [why for _, why in refused][-1] == "is not connected"
    assert {number for number, _ in refused} == {"warm-up": {0, 1, 2}, "round": {1, 2}, "after upload": {2}}[when]
    # It has no scores of its own, and the summary says so.
    assert (summary["averaged"], summary["num_clients"]) == (7, 8) and CLIENT not in summary["per_client"]
    assert summary["left_out"] == {CLIENT: "it did not answer at the end: is not connected"}
    assert any(CLIENT in warning and "not scored" in warning for warning in summary["warnings"])


def test_too_few_replies_stop_the_run_and_name_every_reason(tmp_path: Path) -> None:
    def silent(message: Message, reply: Message) -> Message | None:
        return None if of_round(message, 1) and reply.metadata.src_node_id > 897 else reply

    with pytest.raises(RunFailedError, match=r"round 1: 5 usable updates, min_clients asks for 6.*0-0: did not"):
        run(tmp_path, silent, min_clients=6)


def test_a_killed_server_resumes_from_the_last_round(honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Nodes keep what is private meanwhile; the end is that of a run without the kill."""
    settings = small_settings(baselines=[])
    grid = grid_of(settings)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "two", [stop_after(1)]).start(grid)
    trained = sum(kind.startswith("train.") for kind, _ in grid.log)
    strategy = FedLeaseStrategy(settings, tmp_path / "two")
    strategy.start(grid)
    assert strategy.summaries["fedlease"]["per_client"] == honest[0]["per_client"]
    assert sum(kind.startswith("train.") for kind, _ in grid.log) == trained + 8, "one round was left"
    assert state_at(tmp_path / "two") == state_at(honest[1])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    settings = small_settings(baselines=[])
    grid = grid_of(settings)
    FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    asked = len(grid.log)
    again = FedLeaseStrategy(settings, tmp_path / "r")
    again.start(grid)
    assert len(grid.log) == asked and again.summaries["fedlease"]["num_clients"] == 8


class TestLostState:
    def kill_once(self, grid: MemoryGrid) -> None:
        """The bad node's SuperNode is restarted before the second round."""
        seen = 0

        def fault(message: Message, reply: Message) -> Message:
            nonlocal seen
            if reply.metadata.src_node_id == BAD and of_round(message, 1):
                seen += 1
                if seen == 1:
                    grid.contexts[BAD].state = RecordDict()
                    config = grid.contexts[BAD].node_config
                    grid.join(BAD, config)
            return reply

        grid.faults.append(fault)

    def test_a_node_without_a_folder_notes_what_it_lost_and_continues(self, tmp_path: Path) -> None:
        settings = small_settings(baselines=[])
        over_memory(settings, tmp_path / "r", prepare=self.kill_once, hand_over=False)
        notes = {
            (r["round"], client): entry["notes"]
            for r in rounds_of(tmp_path / "r")
            for client, entry in r["clients"].items()
            if "notes" in entry
        }
        assert set(notes) == {(2, CLIENT)}
        assert notes[2, CLIENT] == ["has lost its private tensors, and continued from what the server sent"]

    def test_with_a_folder_nothing_is_lost(self, honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
        settings = small_settings(baselines=[])
        found, _ = over_memory(
            settings, tmp_path / "two", prepare=self.kill_once, hand_over=False, **{"state-dir": str(tmp_path / "own")}
        )
        assert not any("notes" in e for r in rounds_of(tmp_path / "two") for e in r["clients"].values())
        assert found["fedlease"]["per_client"] == honest[0]["per_client"]


class TestWhoMayTakePart:
    def test_two_nodes_with_one_client_id(self, tmp_path: Path) -> None:
        settings = small_settings()
        grid = grid_of(settings)
        grid.join(7, {"partition-id": 0, "num-partitions": 8})
        with pytest.raises(ConfigError, match=r"client 'planted-0-0' is claimed by two nodes, .*own client-id"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)
        assert ("query.rejected", 7) in grid.log or ("query.rejected", 900) in grid.log
        assert not (tmp_path / "r" / "config.yaml").exists()

    def test_another_version(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from fedlease.flower import strategy

        monkeypatch.setattr(strategy, "__version__", "9.9")
        settings = small_settings()
        with pytest.raises(ConfigError, match=r"'planted-0-0': this node has fedlease .*, the server has 9.9"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_another_model(self, tmp_path: Path) -> None:
        from fedlease.models.tiny import make_tiny

        make_tiny(tmp_path / "model", seed=5)
        settings = small_settings()
        grid = grid_of(settings)
        grid.contexts[900].node_config["model"] = str(tmp_path / "model")
        with pytest.raises(ConfigError, match=r"'planted-0-0': the base model .* on this node .* is not the server's"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_a_missing_folder_of_rows(self, tmp_path: Path) -> None:
        settings = small_settings()
        grid = grid_of(settings)
        grid.contexts[900].node_config = {"data-dir": str(tmp_path / "nowhere")}
        with pytest.raises(ConfigError, match=r"data-dir: .*nowhere' does not exist on this node"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_rows_of_which_the_tokenizer_makes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are found when the node introduces itself, not in the first step."""
        inner = Classification.encode

        def encode(self: Any, rows: Any, tokenizer: Any) -> Any:
            if rows == bad.train:
                raise DataError(["no token", "no token either"])
            return inner(self, rows, tokenizer)

        settings = small_settings(baselines=[])
        bad = next(c for c in load_federation(settings.data, settings.seed) if c.id == CLIENT)
        monkeypatch.setattr(Classification, "encode", encode)
        with pytest.raises(ConfigError, match=r"partition 0: its rows cannot be used; 2 faults, in the log"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_too_few_nodes(self, tmp_path: Path) -> None:
        settings = small_settings(**{"flower.min_nodes": 9, "flower.wait": 0.1})
        with pytest.raises(
            RunFailedError, match=r"flower.min_nodes: needs 9 clients, 8 reported within 0.1 s: planted"
        ):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_a_masking_mod(self) -> None:
        from fedlease.flower.clientapp import client_app

        def secaggplus_mod(message: Any, context: Any, call_next: Any) -> Any:
            return call_next(message, context)

        with pytest.raises(ConfigError, match=r"secaggplus_mod masks only messages of type 'train'"):
            client_app(mods=[secaggplus_mod])

    def test_centralised(self, tmp_path: Path) -> None:
        settings = small_settings(method="centralised")
        with pytest.raises(ConfigError, match=r"pools the rows of all clients, which are on other machines"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))


def test_the_run_folder_does_not_pass_off_a_model_without_its_private_part(honest: tuple[Any, Path]) -> None:
    from fedlease.use.load import load

    with pytest.raises(RunFolderError, match=r"planted-0-0.* has a piece of its model .* on its own machine"):
        load(honest[1], CLIENT)


def test_what_a_node_has_is_not_sent_again(tmp_path: Path) -> None:
    """FFA-LoRA's A is frozen: it goes down once, then B alone."""
    over_memory(small_settings(method="ffa-lora", baselines=[]), tmp_path / "r", hand_over=False)
    down = [record["bytes_down"] for record in rounds_of(tmp_path / "r")]
    # Four modules of 32 x 32, rank 4, eight clients; B is zero at first, equal in all modules, and sent once.
    a, b = 8 * 4 * 32 * 4 * 4, 8 * 4 * 32 * 4 * 4
    assert down == [a + b // 4, b, b]


def test_a_reply_that_arrives_after_the_deadline_is_not_used(tmp_path: Path) -> None:
    """Neither in its round, which is over, nor in the next; and the client drops what it had trained."""
    silent, _ = run(tmp_path / "one", nth(1, 1, lambda message, reply: None))
    settings = small_settings(baselines=[])
    grid = grid_of(settings)
    withheld: list[Message] = []

    def late(message: Message, reply: Message) -> None:
        withheld.append(reply)

    def arrive(event: Any) -> None:
        if type(event).__name__ == "StepFinished" and event.record["round"] == 1:
            (reply,) = withheld
            grid.arrive(reply)

    grid.faults.append(nth(1, 1, late))
    strategy = FedLeaseStrategy(settings, tmp_path / "two", [arrive])
    strategy.start(grid)
    (refused,) = [r["refused"] for r in rounds_of(tmp_path / "two") if r["refused"]]
    assert refused == {CLIENT: "did not answer within 3600 s (flower.deadline)"}
    assert state_at(tmp_path / "two") == state_at(tmp_path / "one/r")
    assert strategy.summaries["fedlease"]["per_client"] == silent["per_client"]


def test_a_node_that_stops_reporting_while_it_is_asked_is_named_and_asked_again(tmp_path: Path) -> None:
    """What a SuperLink answers in its place."""

    def gone(message: Message, reply: Message) -> Message:
        error = Message(Error(5, "Error: Node Unavailable"), reply_to=message)
        error.metadata.__dict__["_src_node_id"] = 1
        return error

    summary, records = run(tmp_path, nth(1, 1, gone))
    assert [r["refused"] for r in records] == [
        {},
        {CLIENT: "was lost while it was asked: its SuperNode stopped reporting"},
        {},
    ]
    assert summary["num_clients"] == 8


def test_a_node_that_is_gone_when_it_is_asked_who_it_is_is_asked_again(tmp_path: Path) -> None:
    asked = 0

    def gone(message: Message, reply: Message) -> Message:
        nonlocal asked
        if message.metadata.message_type != "query.hello" or reply.metadata.src_node_id != BAD:
            return reply
        asked += 1
        return Message(Error(5, "Error: Node Unavailable"), reply_to=message) if asked == 1 else reply

    summary, records = run(tmp_path, gone)
    assert asked == 2 and summary["num_clients"] == 8 and not any(r["refused"] for r in records)
