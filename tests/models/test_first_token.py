"""The last layer computed for the token that the head reads changes no logit and no gradient."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_run
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fedlease.errors import ConfigError, ModelError
from fedlease.models.first_token import READ_FIRST, check_first_token, first_token_alone
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed import MixedModel

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TARGETS = ("query", "value")


def made(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **more)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


@pytest.mark.parametrize("kind", READ_FIRST)
def test_what_the_head_does_not_read_reaches_neither_logits_nor_gradients(kind: str) -> None:
    model = made(kind, **NO_DROPOUT).train()
    ids, mask = torch.arange(5, 41).view(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[1, 7:] = 0
    layer, seen = getattr(model, model.base_model_prefix).encoder.layer[-1], list[tuple[int, ...]]()
    layer.intermediate.register_forward_hook(lambda module, inputs, result: seen.append(tuple(inputs[0].shape)))
    learnt = [
        layer.attention.self.value.weight,
        getattr(model, model.base_model_prefix).encoder.layer[0].output.dense.weight,
    ]

    def found(alone: bool) -> list[Tensor]:
        with first_token_alone(model) if alone else nullcontext():
            logits = model(input_ids=ids, attention_mask=mask).logits
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), learnt)]

    torch.testing.assert_close(found(alone=True), found(alone=False), rtol=1e-4, atol=1e-7)
    assert seen == [(3, 1, 32), (3, 12, 32)] and not layer.attention.output._forward_pre_hooks


def test_a_model_of_which_something_would_be_missed_is_refused() -> None:
    bert, end = made("bert"), "base_model.encoder.layer.1"
    prefix = end.replace("base_model", "bert")
    check_first_token(bert, "m", [f"{prefix}.attention.self.value", "bert.encoder.layer.0.output.dense"])
    with pytest.raises(
        ModelError, match=rf"lora.target_modules names what follows the last attention: \['{prefix}.output"
    ):
        check_first_token(bert, "m", [f"{prefix}.output.dense"])
    rule = r"base.skip_unread: must be false for 'm', a model of type '{}': only classifiers of the types bert, "
    llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    for model in (llama, made("distilbert", dim=32, hidden_dim=64, n_heads=2, n_layers=1)):
        with pytest.raises(ModelError, match=rule.format(model.config.model_type)):
            check_first_token(model, "m", [])


def test_a_run_that_skips_what_is_not_read_ends_where_another_ends(tmp_path: Path) -> None:
    """Alone, in one step with others, and served."""
    changes: dict[str, Any] = {"method": "fedit", "rounds": 1, "data__train_rows": 4, "data__test_rows": 2}
    plain = small_run(tmp_path / "plain", **changes)
    runs = [small_run(tmp_path / f"{n}", **changes, base__skip_unread=True, clients_per_step=n) for n in (1, 4)]
    client = "planted-0-0"
    expected = dict(plain.load(client).named_parameters())
    for run in runs:
        for name, found in run.load(client).named_parameters():
            torch.testing.assert_close(found, expected[name], rtol=0, atol=2e-5)
    opened, calls = OpenRun(runs[0].out), list[int]()
    layer = opened.base.model.bert.encoder.layer[-1]  # type: ignore[union-attr]
    layer.intermediate.register_forward_hook(lambda module, inputs, result: calls.append(inputs[0].shape[1]))  # type: ignore[operator, union-attr]
    inputs = {"input_ids": torch.arange(4, 24).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    opened.load(client)
    opened.resident.for_scoring()
    with torch.inference_mode():
        alone = opened.resident.logits(inputs)
    served = MixedModel.of_run(opened).logits(inputs, [client, client])
    torch.testing.assert_close(torch.stack(served), alone, rtol=0, atol=1e-5)
    assert calls == [1, 1], "the copy that serves counts here too"


def test_activations_cannot_be_computed_anew_for_all_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gradient_checkpointing: must be false when base"):
        small_run(tmp_path / "run", base__skip_unread=True, train__gradient_checkpointing=True)
