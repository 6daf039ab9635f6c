"""States and payloads <-> bytes, without code in them."""

import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from fedlease.core import codec
from fedlease.core.codec import CodecError, decode, digest, dumps, encode, loads, serialisable
from fedlease.core.placement import Centroids
from fedlease.core.types import AdapterSpec, Allocation, Budget, ClientModel


@serialisable
@dataclass(frozen=True)
class CodecProbe:
    number: int
    parts: dict[str, Any] = field(default_factory=dict)


class TestRoundTrip:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(2**70),
            1.5,
            -0.0,
            "Zürich \ud83d \x00 $",
            [],
            (),
            {},
            frozenset(),
            [1, (2, [3, ("a",)])],
            {"$": "tensor", "name": "t0"},
            {1: "int key", "1": "text key", (1, 2): "tuple key", None: 0, False: 1, 2.5: 1},
            frozenset({"b", "a"}),
            CodecProbe(3, {"x": (1, None)}),
            Budget(2, 10, 1),
            AdapterSpec(r=4, alpha=16.0, dropout=0.05, target_modules=("a.q", "a.v"), num_experts=4, mixer="top_m"),
        ],
    )
    def test_plain_values_come_back_equal_and_of_their_type(self, value: object) -> None:
        back = loads(dumps(value))
        assert back == value
        assert type(back) is type(value)
        assert isinstance(value, frozenset) or repr(back) == repr(value)  # repr tells 1 from True and -0.0 from 0.0

    @pytest.mark.parametrize("value", [math.inf, -math.inf])
    def test_infinities(self, value: float) -> None:
        assert loads(dumps([value])) == [value]

    def test_nan(self) -> None:
        assert math.isnan(loads(dumps(math.nan)))

    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    )
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
    def test_tensors_bit_for_bit(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        value = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
        back = loads(dumps({"x": [value]}))["x"][0]
        assert back.dtype == dtype
        assert back.shape == value.shape
        assert torch.equal(back, value)

    def test_nan_payloads_negative_zero_and_subnormals_survive(self) -> None:
        bits = torch.tensor([0x7FC01234, -0x80000000, 1, 0x7F800000], dtype=torch.int64).to(torch.int32)
        back = loads(dumps(bits.view(torch.float32)))
        assert torch.equal(back.view(torch.int32), bits)

    def test_layouts_that_are_not_contiguous(self) -> None:
        base = torch.arange(12.0).view(3, 4)
        for value in (base.T, base[:, 1:3], base[0].expand(5, 4), base[::2]):
            assert torch.equal(loads(dumps(value)), value)

    def test_tensors_that_share_memory(self) -> None:
        base = torch.arange(12.0)
        value = [base, base.detach(), base[:4], base[2:8], base.view(3, 4), base.view(torch.int32)]
        back = loads(dumps(value))
        for before, after in zip(value, back, strict=True):
            assert before.dtype == after.dtype
            assert torch.equal(before, after)

    def test_a_tensor_that_occurs_twice_is_written_once(self) -> None:
        value = torch.zeros(1000)
        assert len(dumps([value] * 8)) < 2 * value.numel() * 4
        back = loads(dumps([value] * 8))
        assert all(torch.equal(other, value) for other in back)

    def test_gradients_do_not_travel(self) -> None:
        back = loads(dumps(torch.nn.Parameter(torch.ones(2))))
        assert type(back) is Tensor
        assert not back.requires_grad

    def test_a_whole_state(self) -> None:
        spec = AdapterSpec(r=1, alpha=1.0, dropout=0.0, target_modules=("q",))
        model = ClientModel(spec, {"q/A/0": torch.randn(1, 3)}, candidates=({"q/A/0": torch.zeros(1, 3)},))
        allocation = Allocation(2, {"a": 0, "b": 1}, {2: 0.1}, torch.zeros(2, 2).double(), ["a", "b"], ("w",))
        known = Centroids(("q",), torch.ones(2, 3).double(), torch.zeros(2, 1).double(), (0.5, math.nan))
        model_back, allocation_back, known_back = loads(dumps([model, allocation, known]))
        assert model_back.spec == spec
        assert torch.equal(model_back.tensors["q/A/0"], model.tensors["q/A/0"])
        assert isinstance(model_back.candidates, tuple)
        assert allocation_back.silhouettes == {2: 0.1}  # the keys are still integers
        assert allocation_back.members(1) == ["b"]
        assert allocation_back.warnings == ("w",)
        assert math.isnan(known_back.reach[1])

    def test_equal_values_give_equal_bytes(self) -> None:
        one = {"x": torch.ones(2), "f": frozenset({"a", "b", "c"})}
        two = {"x": torch.ones(2), "f": frozenset({"c", "b", "a"})}
        assert dumps(one) == dumps(two)
        assert digest(dumps(one)) == digest(dumps(two))
        # The order of a set of texts differs from process to process, so it is written sorted.
        names = [f"n{i:02d}" for i in range(50)]
        assert encode(frozenset(names))[0]["items"] == names
        assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class TestWhatHasNoForm:
    @pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, print, AdapterSpec])
    def test_is_refused(self, value: object) -> None:
        with pytest.raises(TypeError, match="has no written form"):
            dumps([value])

    def test_dataclasses_must_be_marked(self) -> None:
        @dataclass(frozen=True)
        class Unmarked:
            x: int = 0

        with pytest.raises(TypeError, match="Unmarked is not marked serialisable"):
            dumps(Unmarked())

    def test_only_frozen_dataclasses_can_be_marked(self) -> None:
        @dataclass
        class Loose:
            x: int = 0

        for cls in (Loose, int):
            with pytest.raises(TypeError, match="must be a frozen dataclass to be serialisable"):
                serialisable(cls)

    def test_one_name_belongs_to_one_module(self) -> None:
        @dataclass(frozen=True)
        class Budget:
            x: int = 0

        with pytest.raises(TypeError, match=r"two serialisable classes are called Budget: fedlease\.core\.budget"):
            serialisable(Budget)


def blob_with(tree: object) -> bytes:
    """A well-formed safetensors file with any JSON tree in its header."""
    header = json.dumps({"__metadata__": {"fedlease": json.dumps(tree)}}).encode()
    return struct.pack("<Q", len(header)) + header


class TestMalformed:
    def test_the_helper_makes_readable_blobs(self) -> None:
        assert loads(blob_with([1, {"$": "tuple", "items": [2]}])) == [1, (2,)]

    @pytest.mark.parametrize(
        "blob",
        [b"", b"\x00", b"not safetensors at all", b"\xff" * 64, dumps([1])[:-1], dumps(torch.ones(9))[:-1]],
    )
    def test_bytes(self, blob: bytes) -> None:
        with pytest.raises(CodecError, match="not a fedlease state"):
            loads(blob)

    def test_a_safetensors_file_of_someone_else(self) -> None:
        for header in (b"{}", b'{"__metadata__":{"format":"pt"}}', b'{"__metadata__":{"fedlease":"nope"}}'):
            with pytest.raises(CodecError, match="not a fedlease state"):
                loads(struct.pack("<Q", len(header)) + header)

    @pytest.mark.parametrize(
        "tree",
        [
            {},
            {"$": "object"},
            {"$": ["tensor"]},
            {"$": "tensor"},
            {"$": "tensor", "name": "t0"},
            {"$": "tensor", "name": ["t0"]},
            {"$": "float", "value": "one"},
            {"$": "float", "value": 10**400},
            {"$": "float"},
            {"$": "tuple", "items": 3},
            {"$": "dict", "items": [[1]]},
            {"$": "dict", "items": [[[1], 2]]},
            {"$": "frozenset", "items": [[1]]},
            {"$": "class", "name": "Popen", "fields": {"args": "true"}},
            {"$": "class", "name": ["Budget"], "fields": {}},
            {"$": "class", "name": "Budget", "fields": {"warmup_epochs": 1}},
            {"$": "class", "name": "Budget", "fields": {"nope": 1}},
            {"$": "class", "name": "Budget", "fields": [1, 2, 3]},
            {"$": "class", "name": "Budget", "fields": "abc"},
        ],
    )
    def test_trees(self, tree: object) -> None:
        with pytest.raises(CodecError, match="malformed state"):
            loads(blob_with(tree))

    @pytest.mark.parametrize("depth", [200, 400, 900, 100_000])
    def test_nesting_without_end(self, depth: int) -> None:
        header = json.dumps({"__metadata__": {"fedlease": "[" * depth + "]" * depth}}).encode()
        blob = struct.pack("<Q", len(header)) + header
        try:
            value = loads(blob)
        except CodecError:
            return
        for _ in range(depth - 1):
            (value,) = value
        assert value == []

    def test_encode_and_decode_are_inverse_without_bytes(self) -> None:
        tree, tensors = encode({"a": (torch.ones(2), 1)})
        assert json.loads(json.dumps(tree)) == tree
        assert set(tensors) == {"t0"}
        assert torch.equal(decode(tree, tensors)["a"][0], torch.ones(2))
        with pytest.raises(CodecError, match="malformed state"):
            decode(tree, {})

    def test_reading_can_name_only_marked_classes(self) -> None:
        assert "Popen" not in codec.CLASSES
        assert {"AdapterSpec", "Allocation", "Budget", "Centroids", "ClientModel"} <= set(codec.CLASSES)


def test_a_tensor_that_can_be_written_as_it_is_is_not_copied() -> None:
    """So messages of one step that share experts know them again, and hash them once."""
    tensor, trained = torch.ones(2), torch.ones(2, requires_grad=True)
    written = encode([tensor, trained])[1]
    assert written["t0"] is tensor and not written["t1"].requires_grad
