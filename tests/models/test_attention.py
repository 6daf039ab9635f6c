"""Attention in float32 for bases in bfloat16 on a processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft_plugin import tiny
from torch import Tensor
from torch.nn import functional
from transformers import BertForSequenceClassification, PreTrainedModel

from fedlease.models.attention import attend_in_float32
from fedlease.models.base import load_base
from fedlease.models.sources import locate

# Of the last one two heads share one key and value.
MODELS: dict[str, dict[str, Any]] = {"bert": {}, "roberta": {}, "llama": {"num_key_value_heads": 1}}


def made(kind: str, **more: Any) -> PreTrainedModel:
    return tiny.base(kind, **MODELS[kind], **more)


def inputs(padded: bool) -> dict[str, Tensor]:
    tokens = torch.randint(2, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, 7:] = 0
        mask[1, :4] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def gradient(model: PreTrainedModel, padded: bool) -> tuple[Tensor, Tensor]:
    """Logits of the tokens that are not padding, and the gradient of the embeddings."""
    given = inputs(padded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**given).logits.float()
    if logits.dim() == 3:
        logits = logits[given["attention_mask"].bool()]
    (found,) = torch.autograd.grad(logits.square().sum(), model.get_input_embeddings().weight)
    return logits.detach(), found.float()


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_gradients_are_those_of_the_model_as_it_was(kind: str, padded: bool) -> None:
    exact, plain, widened = made(kind), made(kind).to(torch.bfloat16), made(kind).to(torch.bfloat16)
    assert attend_in_float32(widened)
    logits, slope = gradient(widened, padded)
    for found, usual, truth in zip((logits, slope), gradient(plain, padded), gradient(exact, padded), strict=True):
        assert off(found, usual) < 0.03
        # As near to float32 as before, up to the noise of rounding.
        assert off(found, truth) < 1.3 * off(usual, truth) + 0.002


def test_padding_is_left_out() -> None:
    model = made("bert").to(torch.bfloat16)
    assert attend_in_float32(model)
    given = inputs(padded=True)
    other = {**given, "input_ids": torch.where(given["attention_mask"].bool(), given["input_ids"], 5)}
    with torch.no_grad():
        found, changed = model(**given).logits, model(**other).logits
    # The second row begins with padding, and BERT reads a text off its first token.
    assert torch.equal(found[[0, 2]], changed[[0, 2]])


def test_no_token_sees_what_comes_after_it() -> None:
    model = made("llama").to(torch.bfloat16)
    assert attend_in_float32(model)
    given = inputs(padded=False)
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, 8:] = 3
    with torch.no_grad():
        found, changed = model(**given).logits, model(**other).logits
    assert torch.equal(found[:, :8], changed[:, :8])
    assert not torch.equal(found[:, 8:], changed[:, 8:])


def test_attention_sees_float32_and_what_follows_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = functional.scaled_dot_product_attention

    def watched(*arguments: Tensor, **named: Any) -> Tensor:
        seen.extend(tensor.dtype for tensor in arguments[:3])
        return plain(*arguments, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    model = made("bert").to(torch.bfloat16)
    assert attend_in_float32(model)
    after = []
    for layer in model.bert.encoder.layer:
        layer.attention.self.register_forward_hook(lambda module, given, output: after.append(output[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**inputs(padded=True))
    assert seen == [torch.float32] * 6
    assert after == [torch.bfloat16] * 2


@pytest.mark.parametrize("kind", MODELS)
def test_other_ways_of_attending_stay(kind: str) -> None:
    model = made(kind, attn_implementation="eager").to(torch.bfloat16)
    assert not attend_in_float32(model)
    assert model.config._attn_implementation == "eager"


def test_an_architecture_outside_the_registry_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("bert").to(torch.bfloat16)
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    monkeypatch.setattr(type(model.bert), "_can_set_attn_implementation", classmethod(lambda cls: False))
    before = gradient(model, padded=True)
    assert not attend_in_float32(model)
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(a, b) for a, b in zip(before, gradient(model, padded=True), strict=True))


def test_only_bfloat16_on_a_processor_is_changed(tmp_path: Path) -> None:
    source = locate("tiny-random", None, tmp_path / "base", 0)

    def attends_by(dtype: str, device: str) -> str:
        # What is not quantised stays on the processor until it is moved.
        model = load_base(source, dtype=dtype, dropout=False, device=device).model
        return str(model.config._attn_implementation)

    assert attends_by("bfloat16", "cpu") == "float32_sdpa"
    assert attends_by("float32", "cpu") == "sdpa"
    assert attends_by("bfloat16", "cuda:0") == "sdpa"


def test_the_change_is_not_written_with_the_model(tmp_path: Path) -> None:
    model = made("bert")
    assert attend_in_float32(model)
    model.save_pretrained(tmp_path)
    assert "float32_sdpa" not in (tmp_path / "config.json").read_text()
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"
