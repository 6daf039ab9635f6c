"""Usage statistics: what is counted, what is not, and that nothing is left behind."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft_plugin import tiny
from torch import Tensor, nn

from fedlease.peft_plugin import ExpertUsage, record_usage
from fedlease.peft_plugin.state import wrap
from fedlease.peft_plugin.usage import uncounted

MODULES = [f"bert.encoder.layer.{n}.attention.self.{target}" for n in (0, 1) for target in ("query", "value")]


def listeners(model: PeftModel) -> Iterator[object]:
    yield from (layer.on_weights for layer in model.base_model.routed_layers().values() if layer.on_weights)
    yield from model.base_model.model._forward_pre_hooks.values()


class Tiny(nn.Module):
    """One linear module behind an embedding that gives known inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"model_type": "custom"}
        self.words = nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        self.linear = nn.Linear(2, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.linear(self.words(input_ids))


def by_hand() -> PeftModel:
    """M = 2, own expert 1; slots 0 and 1 are the own expert, slot 2 is expert 0.

    Word 1 has logits (log 3, 0, -1): own slots are kept, weights (0, 1).
    Word 2 has logits (0, -9, log 3): slots 2 and 0 are kept, expert 0 weighs 3/4, expert 1 weighs 1/4.
    Word 0 has logits (0, 0, 0): a tie, own slots are kept, weights (0, 1).
    """
    model = wrap(
        Tiny(), tiny.config("bert", r=1, num_experts=2, own_expert=1, target_modules=["linear"], task_type=None)
    )
    with torch.no_grad():
        router = torch.tensor([[math.log(3), 0.0], [0.0, -9.0], [-1.0, math.log(3)]])
        model.base_model.model.linear.fedlease_router["default"].copy_(router)
    return model.eval()


def test_numbers_of_a_case_worked_out_by_hand() -> None:
    model = by_hand()
    with torch.no_grad(), record_usage(model) as usage:
        model(input_ids=torch.tensor([[1, 2, 2], [1, 0, 2]]), attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    # Counted: 1, 2, 2, 1, 0. Sums: expert 0 2 * 3/4, expert 1 3 + 2 * 1/4; distinct 1 + 2 + 2 + 1 + 1.
    assert usage.tokens == {"linear": 5}
    assert usage.distinct == {"linear": 7.0}
    torch.testing.assert_close(usage.weights["linear"], torch.tensor([1.5, 3.5]).double(), rtol=1e-6, atol=0)
    assert usage.summary() == {"linear": {"weights": [0.3, 0.7], "experts_per_token": 1.4}}


@pytest.mark.parametrize("position", ["keyword", "positional"])
def test_padding_is_not_counted(position: str) -> None:
    model = by_hand()
    ids, mask = torch.tensor([[1, 2, 0, 0]]), torch.tensor([[1, 1, 0, 0]])
    with torch.no_grad(), record_usage(model) as padded:
        if position == "keyword":
            model(input_ids=ids, attention_mask=mask)
        else:
            model(ids, mask)
    with torch.no_grad(), record_usage(model) as alone:
        model(input_ids=ids[:, :2])
    assert padded.summary() == alone.summary() and padded.tokens == alone.tokens == {"linear": 2}


def test_batches_add_up_and_a_mask_is_forgotten_after_its_batch() -> None:
    model = by_hand()
    with torch.no_grad(), record_usage(model) as usage:
        model(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.tensor([[1, 0]]))
        model(input_ids=torch.tensor([[1, 2]]))
    assert usage.tokens == {"linear": 3}


@pytest.mark.parametrize("kind", tiny.ALL)
@pytest.mark.parametrize("renormalise", [True, False])
def test_weights_sum_to_one_and_experts_lie_between_one_and_m(kind: str, renormalise: bool) -> None:
    model = tiny.mixture(kind, num_experts=4, own_expert=2, renormalise=renormalise)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    with record_usage(model) as usage:
        tiny.logits(model, tiny.tokens(), attention_mask=mask)
    assert list(usage.summary()) == list(model.base_model.routed_layers())
    for module, found in usage.summary().items():
        assert usage.tokens[module] == 9
        assert len(found["weights"]) == 4
        assert sum(found["weights"]) == pytest.approx(1, abs=1e-5) if renormalise else 0 < sum(found["weights"]) < 1
        assert found["weights"][2] > 0
        assert 1 <= found["experts_per_token"] <= 4
    assert any(found["experts_per_token"] > 1 for found in usage.summary().values())


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["off", "reentrant", "not reentrant"])
def test_training_passes_are_not_counted(checkpointing: bool | None) -> None:
    model = tiny.mixture("bert").train()
    if checkpointing is not None:
        tiny.checkpoint(model, reentrant=checkpointing)
    ids = tiny.tokens()
    with record_usage(model) as usage:
        model(input_ids=ids, labels=torch.tensor([0, 1, 2])).loss.backward()
        assert usage.summary() == {}
        tiny.logits(model.eval(), ids)
    assert usage.tokens == dict.fromkeys(MODULES, 15)


def test_recording_changes_no_logit() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    expected = tiny.logits(model, ids)
    with record_usage(model):
        assert torch.equal(tiny.logits(model, ids), expected)


def test_generated_tokens_are_counted_once() -> None:
    model = tiny.mixture("llama")
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = (ids != 0).long()
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with record_usage(model) as usage:
        model.generate(input_ids=ids, attention_mask=mask, **settings)
    # Six words of the prompt, then each row passes two of its three new words (the last is never read).
    assert set(usage.tokens.values()) == {6 + 2 * 2}


def test_rows_that_have_ended_are_not_counted_further() -> None:
    """Two prompts together count what each counts alone: one ends at its second new token, the other writes on."""
    model = tiny.mixture("llama")
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = (ids != 0).long()
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        free = model.generate(input_ids=ids, attention_mask=mask, eos_token_id=-1, **settings)[:, 4:].tolist()
    assert free[0][1] not in (free[0][0], *free[1])
    settings |= {"eos_token_id": free[0][1], "pad_token_id": free[0][1]}
    with record_usage(model) as together:
        model.generate(input_ids=ids, attention_mask=mask, **settings)
    with record_usage(model) as alone:
        for row in range(2):
            own = ids[row : row + 1, mask[row].bool()]
            model.generate(input_ids=own, attention_mask=torch.ones_like(own), **settings)
    # Prompts of 2 and 4; the end token, and the last of six, are written and never read.
    assert set(together.tokens.values()) == {2 + 1 + 4 + 5}
    assert together.tokens == alone.tokens and together.distinct == alone.distinct
    for module, weights in together.weights.items():
        torch.testing.assert_close(weights, alone.weights[module], rtol=1e-4, atol=1e-4)


def test_what_belongs_to_no_token_is_not_counted() -> None:
    """DeBERTa sends its positions through the projections of the attention: (1, 2 x span, hidden) beside the rows."""
    usage = ExpertUsage()
    usage.mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for shape in ((1, 8), (2, 3), (6,), (3, 2)):
        usage.add(str(shape), torch.ones(*shape, 2))
    assert usage.tokens == {"(2, 3)": 3, "(6,)": 3, "(3, 2)": 3}


def test_nothing_is_counted_while_counting_is_off() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    with record_usage(model) as usage:
        with uncounted(model):
            tiny.logits(model, ids)
        assert usage.tokens == {}
        tiny.logits(model, ids)
    assert set(usage.tokens.values()) == {15}


def test_a_restricted_or_disabled_model_uses_no_router() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    model.base_model.restrict((0,))
    with record_usage(model) as usage:
        tiny.logits(model, ids)
        model.base_model.restrict(None)
        with model.disable_adapter():
            tiny.logits(model, ids)
    assert usage.summary() == {}


def test_listeners_are_removed_even_after_an_exception() -> None:
    model = tiny.mixture("bert")
    with pytest.raises(RuntimeError, match="inside"), record_usage(model):
        assert len(list(listeners(model))) == len(MODULES) + 1
        raise RuntimeError("inside")
    assert list(listeners(model)) == []
    with record_usage(model) as usage:
        pass
    tiny.logits(model, tiny.tokens())
    assert list(listeners(model)) == [] and usage.summary() == {}


def test_other_adapters_record_nothing() -> None:
    model = wrap(tiny.base("bert"), LoraConfig(r=2, target_modules=["query"]))
    with record_usage(model) as usage:
        tiny.logits(model, tiny.tokens())
    assert usage.summary() == {}


def test_all_padding_gives_zeros_and_no_division() -> None:
    usage = ExpertUsage()
    usage.mask = torch.zeros(1, 2)
    usage.add("m", torch.ones(1, 2, 3))
    assert usage.summary() == {"m": {"weights": [0.0, 0.0, 0.0], "experts_per_token": 0.0}}
