"""Messages as another machine might make them: honest ones, recorded, and what a seeded generator makes of them."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlease.flower.handler import handle
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.transport import KINDS, FlowerTransport
from fedlease.flower.wire import ARRAYS, RECORD, TREE, fingerprint_of, pack, unpack

ANY = 2**40
BAD = 900
"""The node that is looked at; ids count down from it."""


def asked_of(grid: MemoryGrid, node: int, value: Any) -> Any:
    """What a node answers to a value of the server's."""
    return unpack(handle(pack(value).record, grid.contexts[node], None, None), ANY)[0]


def recorded(monkeypatch: Any, client: str) -> list[tuple[str, Any]]:
    """Fills with type and value of every message to a client, whole, in runs that follow."""
    found: list[tuple[str, Any]] = []
    inner = FlowerTransport.send

    def send(self: FlowerTransport, requests: Any) -> Any:
        if client in requests:
            found.append((KINDS[type(requests[client])], replace(self.connection.hello, request=requests[client])))
        return inner(self, requests)

    monkeypatch.setattr(FlowerTransport, "send", send)
    return found


def _deep(_: random.Random) -> Any:
    value: Any = []
    for _number in range(300):
        value = [value]
    return value


ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.choice([-1, 0, 1, 2, 3, 10**6, 2**31, 2**63, 10**300]),
    lambda rng: rng.choice([-1.5, 0.5, 1e9, 1e38, 1e308]),
    lambda rng: {"$": "float", "value": rng.choice(["nan", "inf", "-inf", "x"])},
    lambda rng: rng.choice(
        ["", "x", "../../x", "/etc/passwd", "a\0b", "\x1b[2J\x1b]0;t\x07", "\ud800", "\u202ex", "~"]
    ),
    lambda rng: "y" * rng.choice([300, 5000, 200_000]),
    lambda rng: [],
    lambda rng: {"$": "tuple", "items": ["z"] * rng.choice([0, 1, 50_000])},
    lambda rng: {"$": "dict", "items": [["k", 1], [None, "v"]]},
    lambda rng: {"$": "frozenset", "items": ["head/x", "y"]},
    lambda rng: {
        "$": "class",
        "name": rng.choice(["Finish", "Train", "Envelope", "Stored", "os"]),
        "fields": {},
    },
    lambda rng: {"$": "tensor", "name": rng.choice(["t0", "t1", "none"])},
    _deep,
)
"""Values that stand where others are expected."""

Place = tuple[Any, Any]


def _places(tree: Any) -> list[Place]:
    """Every container and key in a JSON tree."""
    found: list[Place] = []
    stack = [tree]
    while stack:
        part = stack.pop()
        keys: Any = part.keys() if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for key in keys:
            found.append((part, key))
            stack.append(part[key])
    return found


def _of_tree(text: str, rng: random.Random) -> str:
    content = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 3])):
        part, key = rng.choice(_places(content["value"]) or [(content, "value")])
        kind = rng.random()
        if kind < 0.75:
            part[key] = rng.choice(ODD)(rng)
        elif kind < 0.85 and isinstance(part, list):
            part.extend(copy.deepcopy(part[key]) for _ in range(rng.choice([1, 40])))
        elif isinstance(part, dict) and len(part) > 1:
            del part[key]
    if rng.random() < 0.05:
        content["names"] = rng.choice([{}, [], {"t0": "x"}, {"t0": ["x"]}])
    text = json.dumps(content)
    return text[: rng.randrange(len(text))] if rng.random() < 0.03 else text


def _of_arrays(arrays: dict[str, Array], text: str, rng: random.Random) -> tuple[dict[str, Array], str]:
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    kind = rng.randrange(7)
    if kind == 0:
        return arrays, text
    if kind == 1:
        data = bytearray(array.data)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return {**arrays, name: Array(array.dtype, array.shape, array.stype, bytes(data))}, text
    if kind == 2:
        shape = rng.choice([(), (-1,), (10**9, 10**9), (0, 10**18), tuple(array.shape)[::-1]])
        return {**arrays, name: Array(array.dtype, shape, array.stype, array.data)}, text
    if kind == 3:
        dtype = rng.choice(["float64", "object", "complex64", "<U900", "int64", ""])
        return {**arrays, name: Array(dtype, array.shape, array.stype, array.data)}, text
    if kind == 4:
        return {**arrays, name: array, "extra": array}, text
    # Another tensor under its own right name.
    value = torch.from_numpy(array.numpy().copy()).float()
    odd = rng.choice([float("nan"), float("inf"), 1e30, -3e38, 1.0])
    value = value.flatten()[:-1] if kind == 5 else torch.full_like(value, odd)
    new = fingerprint_of(value)
    return {**arrays, new: Array(value.numpy())}, text.replace(name, new)


def mutated(record: RecordDict, rng: random.Random) -> RecordDict:
    """A message that differs from an honest one in a few places."""
    text, arrays = str(record.config_records[RECORD][TREE]), dict(record.array_records[ARRAYS])
    kind = rng.random()
    if kind < 0.03:
        return rng.choice(
            [
                RecordDict(),
                RecordDict({RECORD: ConfigRecord({TREE: b"\x80"}), ARRAYS: ArrayRecord()}),
                RecordDict({RECORD: MetricRecord({TREE: 1.0}), ARRAYS: ArrayRecord()}),
                RecordDict({RECORD: ConfigRecord({TREE: "[" * 100_000}), ARRAYS: ArrayRecord()}),
            ]
        )
    if kind < 0.3 and arrays:
        arrays, text = _of_arrays(arrays, text, rng)
    else:
        text = _of_tree(text, rng)
    return RecordDict({RECORD: ConfigRecord({TREE: text}), ARRAYS: ArrayRecord(arrays)})


def is_one_sentence(reason: Any) -> bool:
    """Whether it can be printed, on one line that ends."""
    return isinstance(reason, str) and 0 < len(reason) < 1100 and reason.isprintable()


def reply_with(message: Message, record: RecordDict) -> Message:
    """A record as the answer to a message."""
    return Message(record, reply_to=message)
