"""The last layer computed for the token that the head reads changes no logit and no gradient."""

import io
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small import small_run, small_settings
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fedlease.cli.check_report import render_check
from fedlease.errors import ConfigError, ModelError
from fedlease.models.first_token import READ_FIRST, first_token_alone, with_first_token
from fedlease.runs.check import check_settings
from fedlease.storage.run_folder import read_settings
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

    differences = [
        float((one - other).norm() / other.norm())
        for one, other in zip(found(alone=True), found(alone=False), strict=True)
    ]
    assert max(differences) < 1e-6, "of logits and of gradients, relative: a few roundings of float32, 6e-8 each"
    assert seen == [(3, 1, 32), (3, 12, 32)] and not layer.attention.output._forward_pre_hooks


def chosen(model: Any, targets: Sequence[str] = (), **changes: Any) -> tuple[bool, str]:
    """What is resolved to for a model, and the reason that is told."""
    settings, told = with_first_token(small_settings(model="m", **changes), model, targets)
    assert isinstance(settings.base.skip_unread, bool)
    return settings.base.skip_unread, told.get("base.skip_unread", "")


def test_where_something_would_be_missed_auto_is_off_with_the_reason_and_true_is_refused() -> None:
    bert, end = made("bert"), "base_model.encoder.layer.1"
    prefix = end.replace("base_model", "bert")
    harmless = [f"{prefix}.attention.self.value", "bert.encoder.layer.0.output.dense"]
    assert chosen(bert, harmless) == (True, "true, since the head reads the first token alone")
    assert chosen(bert, harmless, base__skip_unread=True) == (True, "")
    llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    distilled = made("distilbert", dim=32, hidden_dim=64, n_heads=2, n_layers=1)
    cases: list[tuple[Any, list[str], str]] = [
        (bert, [f"{prefix}.output.dense"], f"lora.target_modules names what follows the last attention: ['{prefix}.o"),
        (llama, [], "and this is LlamaForCausalLM of type 'llama'"),
        (distilled, [], "and this is DistilBertForSequenceClassification of type 'distilbert'"),
    ]
    for model, targets, reason in cases:
        found, told = chosen(model, targets)
        assert not found and told.startswith("false, since ") and reason in told
        assert chosen(model, targets, base__skip_unread=False) == (False, "")
        with pytest.raises(
            ModelError, match=r"base.skip_unread: must be false or auto for 'm': .*" + re.escape(reason)
        ):
            chosen(model, targets, base__skip_unread=True)


@pytest.mark.parametrize("setting", ["gradient_checkpointing", "base_dropout"])
def test_auto_is_off_where_results_would_differ_by_more_than_rounding(setting: str) -> None:
    found, told = chosen(made("bert"), **{f"train__{setting}": True})
    assert not found and f"train.{setting}" in told


def test_what_auto_becomes_stands_in_the_run_folder_and_in_the_check(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rounds": 0, "data__train_rows": 4, "data__test_rows": 2}
    assert read_settings(small_run(tmp_path / "run", **changes).out).base.skip_unread is True
    report, screen = check_settings(small_settings(**changes)), Console(file=io.StringIO(), width=10_000)
    assert report.settings.base.skip_unread is True
    render_check(report, screen)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "base.skip_unread becomes true, since the head reads the first token alone." in shown


@pytest.mark.parametrize("wrong", ["yes please", 1, None])
def test_another_word_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"base.skip_unread.*must be true, false or auto"):
        small_settings(base__skip_unread=wrong)


def test_a_run_that_skips_what_is_not_read_ends_where_another_ends(tmp_path: Path) -> None:
    """Alone, in one step with others, and served."""
    changes: dict[str, Any] = {"method": "fedit", "rounds": 1, "data__train_rows": 4, "data__test_rows": 2}
    plain = small_run(tmp_path / "plain", **changes, base__skip_unread=False)
    runs = [small_run(tmp_path / f"{n}", **changes, clients_per_step=n) for n in (1, 4)]
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
