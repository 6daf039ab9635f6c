"""FedDPA by hand: two stages, what is shared and what stays, the blend per input against a loop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, train
from peft import PeftModel
from peft_plugin import tiny
from small import small_run
from torch import Tensor

import fedlease
from fedlease.core.types import ANCHOR, Budget
from fedlease.errors import ModelError
from fedlease.methods.feddpa import FedDPA
from fedlease.peft_plugin.model import FedLeaseModel
from fedlease.storage.checkpoint import Checkpoint
from fedlease.tasks.texts import evaluate
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed import MixedModel

BUDGET = Budget(1, 2)


def test_the_local_adapter_is_trained_beside_the_mean_and_then_the_global_one_alone() -> None:
    """In every round from the first on."""
    method = FedDPA(BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(method.last_round):
        task = method.task(state, "a0")
        assert task is not None
        first, second = task.stages
        assert (first.experts, second.experts) == (None, (0,))
        assert {name[-1] for name in first.trainable} == {"1"}
        assert {name[-1] for name in second.trainable} == {"0"}
        assert task.private == first.trainable
        assert task.upload == second.trainable
        # While the local adapter is trained, the global one is what all clients' score has: the mean.
        assert all(torch.equal(task.model.tensors[n], state.shared[n]) for n in second.trainable)
        state = method.aggregate(state, [constant(train("a0", task, 10), 2.0)])
    assert method.task(state, "a0") is None
    # As FedIT: r (in + out) over the modules (6, 4) and (6, 6), r = 2.
    assert sum(task.model.tensors[name].numel() for name in task.upload) == 2 * (10 + 12)


def test_the_global_adapter_is_the_mean_by_rows() -> None:
    method = FedDPA(BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    updates = []
    for client, value in {"a0": 1.0, "a1": 4.0}.items():
        task = method.task(state, client)
        assert task is not None
        updates.append(constant(train(client, task, CLIENTS[client]), value))
    after = method.aggregate(state, updates)
    model = method.model(after, "b0")
    for name, tensor in model.tensors.items():
        # 10 and 20 rows: (10 + 20 x 4) / 30 = 3; the local adapter is the client's, here still the start.
        expected = torch.full_like(tensor, 3.0) if name.endswith("/0") else adapter().tensors[name[:-1] + "0"]
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(("name", "value"), [("blend", 1.5), ("blend", -0.1), ("num_anchors", 0)])
def test_parameters_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        FedDPA(BUDGET, **{name: value}).init(adapter(), CLIENTS, 0)  # type: ignore[arg-type]


def blended(blend: float = 0.8) -> FedLeaseModel:
    model = tiny.mixture("bert", mixer="instance", num_experts=2, own_expert=1, blend=blend).base_model
    assert isinstance(model, FedLeaseModel)
    return model


def directions(model: FedLeaseModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last hidden state with expert 1 alone, mean over tokens that are no padding, length 1."""
    model.restrict((1,))
    states = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    model.restrict(None)
    rows = [state[m.bool()].mean(0) for state, m in zip(states, mask, strict=True)]
    return torch.stack([row / row.norm() for row in rows])


@torch.no_grad()
def test_every_input_is_blended_by_its_likeness_to_the_anchors() -> None:
    model = blended()
    ids = tiny.tokens()
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    units = directions(model, ids, mask)
    anchors = units[1:]  # the rows that inputs are compared with
    model.set_anchor(anchors.mean(0))
    found = model.model(input_ids=ids, attention_mask=mask).logits
    for i in range(len(ids)):
        share = 0.8 * max(0.0, sum(float(units[i] @ anchor) for anchor in anchors) / len(anchors))
        # The same in one expert: global scaled by 1 - share, local by share.
        by_hand = tiny.mixture("bert", mixer="instance", num_experts=2, own_expert=1, blend=0.8).base_model
        for layer in by_hand.routed_layers().values():
            layer.stack_b("default")[0].mul_(1 - share)
            layer.stack_b("default")[1].mul_(share)
        by_hand.restrict((0, 1))
        expected = by_hand.model(input_ids=ids[i : i + 1], attention_mask=mask[i : i + 1]).logits
        assert tiny.relative(found[i : i + 1], expected) < 1e-4


@torch.no_grad()
def test_without_an_anchor_and_with_a_blend_of_0_the_global_adapter_works_alone() -> None:
    ids = tiny.tokens()
    model = blended()
    alone = model.model(input_ids=ids).logits
    model.restrict((0,))
    assert torch.allclose(alone, model.model(input_ids=ids).logits, atol=1e-6)
    still = blended(blend=0.0)
    still.set_anchor(directions(still, ids, torch.ones_like(ids)).mean(0))
    assert torch.allclose(alone, still.model(input_ids=ids).logits, atol=1e-6)


def test_in_training_the_local_adapter_weighs_the_blend() -> None:
    layer = tiny.layer(num_experts=2, mixer="instance", own_expert=1, blend=0.25, lora_alpha=3).train()
    x = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(1))
    scaling = layer.fedlease_rules["default"].scaling
    expected = layer.base_layer(x)
    for weight, a, b in zip((0.75, 0.25), layer.stack_a("default"), layer.stack_b("default"), strict=True):
        expected = expected + scaling * weight * (x @ a.T @ b.T)
    assert tiny.relative(layer(x), expected) < 1e-5


@torch.no_grad()
def test_a_blend_is_saved_with_its_anchor_and_read_back(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert", mixer="instance", num_experts=2, own_expert=1), tiny.tokens()
    assert isinstance(model.base_model, FedLeaseModel)
    model.base_model.set_anchor(directions(model.base_model, ids, torch.ones_like(ids)).mean(0))
    model.save_pretrained(str(tmp_path))
    again = tiny.load(tiny.base("bert"), tmp_path)
    assert torch.equal(tiny.logits(again, ids), tiny.logits(model, ids))
    base = model.unload()
    assert not base._forward_pre_hooks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("feddpa") / "run"
    small_run(out, method="feddpa", baselines=[])
    return out


class TestEndToEnd:
    def test_loaded_models_predict_what_was_scored(self, run: Path) -> None:
        opened = OpenRun(run)
        correct = json.loads((run / "row_scores.json").read_text())
        summary = json.loads((run / "summary.json").read_text())
        from fedlease.data.load import load_federation

        for data in load_federation(opened.settings.data, opened.settings.seed):
            opened.load(data.id)
            logits = evaluate(opened.resident, opened.encode(data.test), 1)
            right = [int(guess) == row.label for guess, row in zip(logits.argmax(-1), data.test, strict=True)]
            assert "".join("01"[r] for r in right) == correct[data.id]
            assert summary["per_client"][data.id]["own_expert"] is not None

    def test_the_anchor_stays_with_the_client_and_goes_with_its_model(self, run: Path) -> None:
        saved = Checkpoint(run).load()
        assert saved is not None
        opened = OpenRun(run)
        client = min(opened.clients)
        spec = opened.model(client).spec
        kept = saved.private[client][spec.fingerprint()]
        assert ANCHOR in kept
        assert ANCHOR not in saved.state.inner.shared
        model = fedlease.load(run, client)
        assert model.peft_config["default"].anchor == kept[ANCHOR].tolist()

    def test_it_is_not_computed_together_with_others(self, run: Path) -> None:
        opened = OpenRun(run)
        client = min(opened.clients)
        mixed = MixedModel.of_run(opened)
        with pytest.raises(ModelError, match="takes two passes"):
            mixed.logits({"input_ids": torch.ones(1, 3, dtype=torch.long)}, [client])


def chat_model(prompts: Tensor) -> PeftModel:
    model = tiny.mixture("llama", mixer="instance", num_experts=2, own_expert=1, blend=1.0)
    assert isinstance(model.base_model, FedLeaseModel)
    model.base_model.set_anchor(directions(model.base_model, prompts, (prompts != 0).long()).mean(0))
    return model


@torch.no_grad()
def written(model: PeftModel, prompt: Tensor, count: int) -> list[int]:
    """The most probable tokens one by one, every text anew and without a cache, with the shares of the prompt."""
    tuner, ids = model.base_model, prompt
    assert isinstance(tuner, FedLeaseModel)
    with tuner.weighing({"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}):
        for _ in range(count):
            last = model(input_ids=ids, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, last.argmax(-1, keepdim=True)], 1)
    return ids[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("given", ["by name", "by place", "without a mask", "as embeddings"])
def test_the_prompt_is_known_however_generate_is_called(given: str, cached: bool) -> None:
    """Steps without a cache hold the whole text, and caches go by other names in other versions."""
    prompts = tiny.tokens(rows=2, length=6)
    model = chat_model(prompts)
    settings = {"max_new_tokens": 5, "do_sample": False, "use_cache": cached, "eos_token_id": None, "pad_token_id": 0}
    for prompt in prompts.split(1):
        expected = written(model, prompt, 5)
        mask = torch.ones_like(prompt)
        if given == "by name":
            found = model.generate(input_ids=prompt, attention_mask=mask, **settings)[:, 6:]
        elif given == "by place":
            found = model.generate(prompt, attention_mask=mask, **settings)[:, 6:]
        elif given == "without a mask":
            found = model.generate(inputs=prompt, **settings)[:, 6:]
        else:
            words = model.get_input_embeddings()(prompt)
            found = model.generate(inputs_embeds=words, attention_mask=mask, **settings)
        assert found[0].tolist() == expected
        shares = model.base_model.routed_layers()["model.layers.0.self_attn.q_proj"].instance_shares
        assert shares is not None and 0 < float(shares[0]) < 1


def test_beams_and_padded_prompts_have_the_shares_of_their_prompt() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    model = chat_model(ids)
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    settings |= {"eos_token_id": None, "pad_token_id": 0}
    both = model.generate(ids, **settings)  # the mask is that of the padding
    for row, own in enumerate((ids[:1, 2:], ids[1:])):
        alone = model.generate(own, attention_mask=torch.ones_like(own), **settings)
        assert both[2 * row : 2 * row + 2, -4:].tolist() == alone[:, -4:].tolist()
