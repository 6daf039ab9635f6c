"""The codec round-trips every state bit for bit, and damaged bytes give CodecError and nothing else."""

import contextlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.core.types import AdapterSpec, Allocation, Budget

dtypes = st.sampled_from(
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    value = torch.randn(shape, generator=g).mul(100).to(draw(dtypes))
    return value.t() if value.dim() == 2 and draw(st.booleans()) else value


keys = st.one_of(st.text(max_size=5), st.integers(), st.booleans())
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10))
records = st.one_of(
    st.builds(Budget, st.integers(1, 9), st.integers(0, 9), st.integers(1, 9)),
    st.builds(
        AdapterSpec,
        r=st.integers(1, 9),
        alpha=st.floats(1, 9),
        dropout=st.floats(0, 0.5),
        target_modules=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    ),
    st.builds(
        Allocation,
        st.integers(1, 4),
        st.dictionaries(st.text(max_size=4), st.integers(0, 3), max_size=3),
        st.dictionaries(st.integers(2, 8), st.floats(-1, 1), max_size=3),
        tensors(),
        st.lists(st.text(max_size=4), max_size=3),
    ),
)
states = st.recursive(
    st.one_of(scalars, tensors(), records, st.frozensets(st.text(max_size=4), max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


def assert_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, Tensor):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        assert one.contiguous().view(-1).view(torch.uint8).equal(two.contiguous().view(-1).view(torch.uint8))
    elif isinstance(one, float):
        assert repr(one) == repr(two)  # NaN equals NaN, and -0.0 is not 0.0
    elif isinstance(one, Mapping):
        assert sorted(map(repr, one)) == sorted(map(repr, two))  # order is not part of a mapping
        for key, value in one.items():
            assert_same(value, two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    elif hasattr(one, "__dataclass_fields__"):
        assert_same(vars(one), vars(two))
    else:
        assert one == two


@given(states)
def test_round_trip_is_bit_equal(state: Any) -> None:
    blob = dumps(state)
    back = loads(blob)
    assert_same(state, back)
    assert dumps(back) == blob


def may_only_raise_codec_error(blob: bytes) -> None:
    with contextlib.suppress(CodecError):
        loads(blob)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(blob: bytes) -> None:
    may_only_raise_codec_error(blob)


@given(states, st.data())
def test_truncated(state: Any, data: st.DataObject) -> None:
    blob = dumps(state)
    cut = data.draw(st.integers(0, len(blob) - 1))
    try:
        loads(blob[:cut])
    except CodecError:
        return
    raise AssertionError("a truncated blob was read")


@settings(max_examples=500)
@given(states, st.data())
def test_flipped(state: Any, data: st.DataObject) -> None:
    blob = bytearray(dumps(state))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    may_only_raise_codec_error(bytes(blob))


forms = st.sampled_from(["float", "tensor", "tuple", "frozenset", "dict", "class", "x"])
names = st.sampled_from(["Budget", "Allocation", "AdapterSpec", "t0", "Popen", ""])
json_trees = st.recursive(
    st.one_of(scalars, names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["$", "name", "items", "value", "fields", "rounds"]), inner, max_size=5),
        st.builds(
            lambda kind, name, items, fields: {
                "$": kind,
                "name": name,
                "items": items,
                "fields": fields,
                "value": name,
            },
            forms,
            st.one_of(names, inner),
            inner,
            inner,
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=300)
@given(json_trees)
@example({"$": "frozenset", "items": [{"$": "dict", "items": []}]})
def test_well_formed_files_with_any_tree(tree: Any) -> None:
    header = json.dumps({"__metadata__": {"fedlease": json.dumps(tree)}}).encode()
    may_only_raise_codec_error(struct.pack("<Q", len(header)) + header)


headers = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "F64", "BF16", "F16", "BOOL", "I64", "U8", "F8_E4M3", "F4", "C64", "X", "U64"]
        ),
        "shape": st.lists(st.integers(-1, 9), max_size=3),
        "data_offsets": st.tuples(st.integers(0, 40), st.integers(0, 40)).map(list),
    }
)


@settings(max_examples=300)
@given(headers, st.binary(max_size=40))
def test_well_formed_files_with_any_tensor_header(entry: dict[str, Any], payload: bytes) -> None:
    tree = json.dumps({"$": "tensor", "name": "t0"})
    header = json.dumps({"__metadata__": {"fedlease": tree}, "t0": entry}).encode()
    may_only_raise_codec_error(struct.pack("<Q", len(header)) + header + payload)
    size = entry["data_offsets"][1]
    exact = json.dumps({"__metadata__": {"fedlease": tree}, "t0": {**entry, "data_offsets": [0, size]}}).encode()
    may_only_raise_codec_error(struct.pack("<Q", len(exact)) + exact + bytes(size))


@given(st.dictionaries(st.text(max_size=5), st.one_of(scalars, tensors()), max_size=6), st.randoms())
def test_equal_mappings_give_equal_bytes_whatever_their_order(mapping: dict[str, Any], random: Any) -> None:
    """A process may build the same state in another order; a checkpoint is named by its content."""
    items = list(mapping.items())
    random.shuffle(items)
    assert dumps(dict(items)) == dumps(mapping)
