"""What comes from nodes and cannot be used: each is refused by name, and the run goes on without it."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.faults import BAD, CLIENT, Change, What, changed, few, nth, of_round, run
from flower.nodes import Stopped, grid_of, stop_after
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedlease.config.settings import Settings
from fedlease.core.types import TensorName
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import pack, unpack
from fedlease.storage.checkpoint import Checkpoint

NODES = {900 - i: f"planted-{i // 2}-{i % 2}" for i in range(8)}
HONEST = "planted-3-1"
"""The last one, where every other client sends faults of its own."""
EIGHT = {"data__clients_per_task": 2}


def assert_refused(sent: dict[str, tuple[What, str]], number: int, tmp_path: Path) -> None:
    """Every client but the last sends one of these messages in each round, is refused for the reason beside it, and
    takes part again."""
    places = {name: (number + i // 7, list(NODES)[i % 7]) for i, name in enumerate(sent)}
    faults = [nth(1 + round_ - number, number, sent[name][0], node) for name, (round_, node) in places.items()]
    rounds = max(round_ for round_, _ in places.values()) + 1
    summary, records = run(tmp_path, *faults, rounds=rounds, **EIGHT)
    refused = {(r["round"], client): why for r in records for client, why in r["refused"].items()}
    assert refused.keys() == {(round_, NODES[node]) for round_, node in places.values()}
    found = {name: refused[round_, NODES[node]] for name, (round_, node) in places.items()}
    assert not {name: why for name, why in found.items() if sent[name][1] not in why}
    # After a refused warm-up it was asked once more.
    assert summary["assignment"].keys() == set(NODES.values()) and summary["num_clients"] == 8


def update(**changes: Any) -> Change:
    return lambda answer: replace(answer, update=replace(answer.update, **changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    return lambda answer: replace(answer, update=replace(answer.update, tensors=change(dict(answer.update.tensors))))


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
    "absurd": (update(num_examples=10**12), "num_examples is 1000000000000, the client announced 8"),
    "false": (update(num_examples=9), "num_examples is 9, the client announced 8"),
    "other": (update(client=HONEST), f"update is from client '{HONEST}'"),
    "round": (update(round=77), "round 77, expected 'experts' round "),
    "loss": (update(metrics={}), "metrics must be the loss alone, a number in -1e+09 .. 1e+09, received {}"),
    "choice": (update(choice=3), "choice must be None, as there are no candidates, received 3"),
    "many": (lambda answer: replace(answer, steps=10**400), "steps must be a whole number in 0 .. 8, received"),
    "half a letter": (lambda answer: replace(answer, notes=("\ud800",)), "notes must be at most 16 lines"),
    "endless notes": (lambda answer: replace(answer, notes=("x" * 10**6,)), "characters of JSON, at most"),
    "steps": (lambda answer: replace(answer, steps=-1), "steps must be a whole number in 0 .. 8, received -1"),
    "a large loss": (
        update(metrics={"loss": 1e300}),
        "metrics must be the loss alone, a number in -1e+09 ..",
    ),
    "more figures": (update(metrics={"loss": 1.0, "x": 1.0}), "metrics must be the loss alone"),
    "huge": (tensors(lambda values: {n: t + 1e30 for n, t in values.items()}), "holds values beyond 1e+06"),
    "centuries": (lambda answer: replace(answer, train_seconds=1e308), "train_seconds must be a number in 0 .. 1e+07"),
    "unable": (lambda answer: replace(answer, steps=9), "steps must be a whole number in 0 .. 8, received 9"),
    "long notes": (lambda answer: replace(answer, notes=("x" * 2000,)), "notes must be at most 16 lines"),
    "many notes": (lambda answer: replace(answer, notes=("x",) * 100), "notes must be at most 16 lines"),
    "escape": (lambda answer: replace(answer, notes=("\x1b[2J",)), "notes must be at most 16 lines"),
    "score": (
        lambda answer: replace(answer, score=float("inf")),
        "score must be a number in 0 .. 1 or none",
    ),
    "update": (lambda answer: replace(answer, update=None), "Trained.update cannot be a NoneType"),  # type: ignore[arg-type]
}


def test_faulty_updates_are_refused_by_name_and_the_run_ends(tmp_path: Path) -> None:
    assert_refused({name: (changed(change), reason) for name, (change, reason) in FAULTS.items()}, 1, tmp_path)
    saved = Checkpoint(tmp_path / "r").load()
    assert saved is not None
    assert all(bool(t.isfinite().all()) for expert in saved.state.inner.experts for t in expert.values())


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


def sends(content: RecordDict) -> What:
    return lambda message, reply: Message(content, reply_to=message)


@pytest.mark.parametrize("number", [0, 1])
def test_a_message_that_cannot_be_used_costs_its_client_the_step(number: int, tmp_path: Path) -> None:
    """Bytes made to break the reader are the sender's fault, too."""
    harmful = {f"harmful {name}": (sends(content), reason) for name, (content, reason) in HARMFUL.items()}
    assert_refused({**UNUSABLE, **(harmful if number else {})}, number, tmp_path)


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
    {"confusion": [[0, 0, 7]]},
    {"confusion": [[0, 9, 8]]},
    {"confusion": [[0, 0, 4], [0, 0, 4]]},
    {"confusion": [[0, 0, 9], [0, 1, -1]]},
    {"confusion": [[0, 0]]},
    {"confusion": "all right"},
    {"confusion": [[0, 0, 8]], "metrics": {"accuracy": 0.5, "macro_f1": 0.5, "mcc": 0.5, "loss": 1.0}},
]


@pytest.fixture(scope="module")
def before_the_end(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, MemoryGrid, Path]:
    """A run of which all is done but the final scores."""
    settings = few(rounds=1, **EIGHT)
    grid, out = grid_of(settings), tmp_path_factory.mktemp("before") / "r"
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, out, [stop_after(1)]).start(grid)
    return settings, grid, out


@pytest.mark.parametrize("first", range(0, len(FALSE_SCORES), 7))
def test_false_final_scores_are_left_out_by_name(
    first: int, before_the_end: tuple[Settings, MemoryGrid, Path], tmp_path: Path
) -> None:
    settings, begun, out = before_the_end
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

    grid = grid_of(settings)
    grid.contexts = deepcopy(begun.contexts)
    grid.faults.append(fault)
    strategy = FedLeaseStrategy(settings, shutil.copytree(out, tmp_path / "r"))
    strategy.start(grid)
    assert all(kind != "train.task" for kind, _ in grid.log)
    summary = strategy.summaries["fedlease"]
    faulty = {NODES[node]: change for node, change in sent.items()}
    wording = {client for client in faulty for line in summary["warnings"] if client in line and "not scored" in line}
    assert not {client: change for client, change in faulty.items() if client not in wording}
    assert summary["left_out"].keys() == faulty.keys()
    assert summary["per_client"].keys() == set(NODES.values()) - faulty.keys()
    assert (summary["averaged"], summary["num_clients"]) == (8 - len(faulty), 8)


def test_the_score_of_a_refused_update_is_not_in_the_mean(tmp_path: Path) -> None:
    _, records = run(
        tmp_path, nth(1, 1, changed(lambda a: replace(a, score=1.0, update=replace(a.update, round=9)))), rounds=1
    )
    (spoilt_round,) = [r for r in records if r["refused"]]
    others = [entry["score"] for client, entry in spoilt_round["clients"].items() if client != CLIENT]
    assert spoilt_round["mean_score"] == pytest.approx(sum(others) / 3)


def test_bytes_of_a_client_that_did_not_reply_are_not_counted(tmp_path: Path) -> None:
    _, records = run(tmp_path, nth(1, 1, lambda message, reply: None))
    assert records[1]["bytes_up"] * 4 == records[2]["bytes_up"] * 3


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
