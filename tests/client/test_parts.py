"""Batches, the client store, atomic writes and the resident model, each by itself."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlease.client.resident import ResidentModel
from fedlease.client.store import Private
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.methods.base import CommonState
from fedlease.methods.warmup import Warmup
from fedlease.models.base import initial_head, load_base, target_shapes
from fedlease.models.sources import locate
from fedlease.storage.checkpoint import Checkpoint, Saved
from fedlease.tasks.batches import evaluation_batches, padding_share, training_batches

SPEC = AdapterSpec(r=2, alpha=4, dropout=0.0, target_modules=("m",))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=200), st.integers(1, 17), st.integers(0, 5))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], size: int, seed: int) -> None:
    batches = training_batches(lengths, size, torch.Generator().manual_seed(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert training_batches(lengths, size, torch.Generator().manual_seed(seed)) == batches
    again = evaluation_batches(lengths, size)
    assert sorted(i for batch in again for i in batch) == list(range(len(lengths)))
    assert [lengths[i] for batch in again for i in batch] == sorted(lengths)


def test_buckets_pad_less_than_random_batches() -> None:
    lengths = [1 + (i * 37) % 90 for i in range(512)]
    bucketed = padding_share(lengths, training_batches(lengths, 16, torch.Generator().manual_seed(0)))
    plain = [list(range(i, i + 16)) for i in range(0, 512, 16)]
    assert bucketed < 0.15 < padding_share(lengths, plain)
    assert padding_share(lengths, evaluation_batches(lengths, 16)) < 0.05
    assert padding_share([3, 1], [[0, 1]]) == pytest.approx(2 / 6)


def test_private_tensors_belong_to_a_spec_and_heads_to_the_client() -> None:
    other = AdapterSpec(r=3, alpha=4, dropout=0.0, target_modules=("m",))
    trained = Private().trained(1, SPEC, {"m/A/0": torch.ones(2), "head/w": torch.full((2,), 5.0)})
    private = trained.accepted(1, SPEC)
    assert private.slots.keys() == {SPEC.fingerprint(), "head"} and private.names == {"m/A/0", "head/w"}
    laid = private.overlay(SPEC, {"m/A/0": torch.zeros(2), "m/B/0": torch.zeros(2)})
    assert laid["m/A/0"].tolist() == [1, 1] and laid["m/B/0"].tolist() == [0, 0] and "head/w" not in laid
    assert private.accepted(1, other).slots.keys() == {"head"}


def test_what_was_trained_holds_once_the_server_says_that_it_was_used() -> None:
    first = Private().trained(1, SPEC, {"m/A/0": torch.ones(2)}).accepted(1, SPEC)
    second = first.trained(2, SPEC, {"m/A/0": torch.zeros(2)})
    assert second.overlay(SPEC, {"m/A/0": torch.full((2,), 7.0)})["m/A/0"].tolist() == [1, 1], "still pending"
    assert second.accepted(2, SPEC).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [0, 0]
    assert second.accepted(1, SPEC).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [1, 1], "the update was not used"
    assert second.accepted(1, SPEC).names == {"m/A/0"} and second.accepted(None, SPEC) == Private()


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


@pytest.fixture
def resident(tmp_path: Path) -> tuple[ResidentModel, ClientModel]:
    base = load_base(locate("tiny-random", None, tmp_path / "base", 0), dtype="float32", dropout=False)
    shapes = target_shapes(base, None, 2)
    return ResidentModel(base, torch.device("cpu")), initial_adapter(shapes, r=2, alpha=4, dropout=0.0, seed=0)


def test_swapping_clients_in_and_out_leaves_no_trace(resident: tuple[ResidentModel, ClientModel]) -> None:
    """Another client's adapter, mixture or head in between must not change what a client's model gives."""
    model, adapter = resident
    ids = {"input_ids": torch.arange(4, 24).view(2, 10)}

    def client(labels: int, value: float) -> ClientModel:
        head = initial_head(model.head_modules(labels), 0)
        tensors = {n: torch.full_like(t, value) if "/B/" in n else t for n, t in adapter.tensors.items()}
        return ClientModel(adapter.spec, {**tensors, **head})

    with torch.inference_mode():
        model.load(client(2, 0.1), 2)
        first = model.logits(ids)
        model.load(client(5, -0.3), 5)
        assert model.logits(ids).shape == (2, 5)
        spec = AdapterSpec(**{**vars(adapter.spec), "num_experts": 2, "own": 1, "mixer": "top_m"})
        mixture = {n.rsplit("/", 1)[0] + f"/{e}": t + 0.2 for n, t in adapter.tensors.items() for e in range(2)}
        routers = {f"{m}/G": torch.randn(3, 32) for m in spec.target_modules}
        model.load(ClientModel(spec, {**mixture, **routers, **initial_head(model.head_modules(2), 0)}), 2)
        assert not torch.equal(model.logits(ids), first)
        model.load(client(2, 0.1), 2)
        assert torch.equal(model.logits(ids), first)


def test_loading_refuses_tensors_that_do_not_fit(resident: tuple[ResidentModel, ClientModel]) -> None:
    model, adapter = resident
    tensors = dict(adapter.tensors)
    missing = sorted(tensors)[0]
    del tensors[missing]
    with pytest.raises(ValueError, match=f"missing \\['{missing}'\\]"):
        model.load(ClientModel(adapter.spec, tensors), 2)


def test_nothing_is_loaded_at_first(resident: tuple[ResidentModel, ClientModel]) -> None:
    with pytest.raises(RuntimeError, match="load a client's model first"):
        _ = resident[0].model
