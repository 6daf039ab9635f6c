"""The tuner in whole models: saving, gradients, several adapters, switching off, generating, refusing to merge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft_plugin import tiny
from safetensors.torch import load_file
from torch import nn

from fedlease.core.types import TensorName
from fedlease.peft_plugin import FedLeaseConfig, FedLeaseModel
from fedlease.peft_plugin.state import adapter_parameters, snapshot, wrap


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_by_a_step(model: PeftModel, kind: str) -> set[str]:
    """Names of the parameters that a backward pass gives a gradient."""
    model.zero_grad()
    ids = tiny.tokens()
    labels = torch.tensor([0, 1, 2]) if kind in tiny.SEQ_CLS else ids
    model(input_ids=ids, labels=labels).loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def allowed(model: PeftModel, own: int, adapter: str = "default") -> set[str]:
    """Names that may be trained: own A and B, router, and copies of the modules to save."""
    parameters = adapter_parameters(model, adapter)
    wanted = {id(p) for name, p in parameters.items() if TensorName.parse(name).expert in (own, None)}
    return {
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in wanted or f"modules_to_save.{adapter}." in name
    }


# Gradients


@pytest.mark.parametrize("kind", tiny.ALL)
def test_only_own_expert_router_and_head_are_trained(kind: str) -> None:
    model = tiny.mixture(kind, own_expert=1).train()
    assert trainable(model) == trained_by_a_step(model, kind) == allowed(model, 1)
    assert any("classifier" in name or "score" in name for name in allowed(model, 1)) == (kind in tiny.SEQ_CLS)


def switch_off_and_on(model: PeftModel) -> None:
    with model.disable_adapter():
        tiny.logits(model, tiny.tokens())


def disable_and_enable(model: PeftModel) -> None:
    model.base_model.disable_adapter_layers()
    model.base_model.enable_adapter_layers()


def train_and_eval(model: PeftModel) -> None:
    model.eval()
    tiny.logits(model, tiny.tokens())
    model.train()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_adapter("default"),
        lambda model: model.base_model.set_requires_grad("default", True),
        switch_off_and_on,
        disable_and_enable,
        train_and_eval,
        lambda model: model.base_model.restrict((0, 2)),
        lambda model: [model.base_model.set_own_expert(own) for own in (0, 2, 1)],
        lambda model: model.add_adapter("second", tiny.config("bert")),
    ],
    ids=["set_adapter", "requires_grad", "disable_adapter", "layers off", "train eval", "restrict", "own", "add"],
)
def test_foreign_experts_stay_frozen_whatever_is_switched(change: Callable[[PeftModel], Any]) -> None:
    model = tiny.mixture("bert", own_expert=1)
    change(model)
    model.base_model.restrict(None)
    assert trainable(model) == trained_by_a_step(model, "bert") == allowed(model, 1)


def test_set_own_expert_moves_gradients_and_the_own_slots() -> None:
    model, ids = tiny.mixture("bert", own_expert=0), tiny.tokens()
    other = tiny.mixture("bert", own_expert=2)
    assert not torch.equal(tiny.logits(model, ids), tiny.logits(other, ids))
    model.base_model.set_own_expert(2)
    assert torch.equal(tiny.logits(model, ids), tiny.logits(other, ids))
    assert trained_by_a_step(model, "bert") == trainable(model) == allowed(model, 2)
    assert model.peft_config["default"].own_expert == 2
    with pytest.raises(ValueError, match=r"own expert must be in 0 \.\. 2, received 3"):
        model.base_model.set_own_expert(3)
    assert model.peft_config["default"].own_expert == 2 and trainable(model) == allowed(model, 2)


def test_set_own_expert_trains_nothing_in_a_model_loaded_for_inference(tmp_path: Path) -> None:
    tiny.mixture("bert").save_pretrained(str(tmp_path), save_embedding_layers=False)
    model = tiny.load(tiny.base("bert"), tmp_path)
    assert not trainable(model)
    model.base_model.set_own_expert(2)
    assert not trainable(model)


def test_forward_and_generate_change_no_gradient_flag(tmp_path: Path) -> None:
    tiny.mixture("llama").save_pretrained(str(tmp_path), save_embedding_layers=False)
    for is_trainable in (False, True):
        model = tiny.load(tiny.base("llama"), tmp_path, is_trainable=is_trainable)
        before = trainable(model)
        model.generate(input_ids=tiny.tokens(), max_new_tokens=2, do_sample=False)
        model(input_ids=tiny.tokens())
        assert trainable(model) == before == (allowed(model, 0) if is_trainable else set())


def test_training_moves_only_what_it_may() -> None:
    model = tiny.mixture("bert", own_expert=1, lora_dropout=0.1).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(input_ids=tiny.tokens(), labels=torch.tensor([0, 1, 2])).loss.backward()
        optimiser.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == allowed(model, 1)


# Saving and loading


@pytest.mark.parametrize("kind", tiny.ALL)
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_model_reloads_bit_equal(kind: str, low_memory: bool, tmp_path: Path) -> None:
    model = tiny.mixture(kind, own_expert=1, top_k=2, renormalise=False, lora_dropout=0.2)
    ids = tiny.tokens()
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    reloaded = tiny.load(tiny.base(kind), tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(tiny.logits(reloaded, ids), tiny.logits(model, ids))
    assert not trainable(reloaded)
    expected = adapter_parameters(model)
    for name, parameter in adapter_parameters(reloaded).items():
        assert torch.equal(parameter, expected[name]), name


def test_trainable_reload_trains_the_same_parameters(tmp_path: Path) -> None:
    model = tiny.mixture("bert", own_expert=2)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    reloaded = tiny.load(tiny.base("bert"), tmp_path, is_trainable=True).train()
    assert trainable(reloaded) == trained_by_a_step(reloaded, "bert") == allowed(reloaded, 2)


@pytest.mark.parametrize("adapter", ["default", "mine"])
def test_checkpoint_names_one_a_and_b_per_expert_and_one_router_per_module(adapter: str, tmp_path: Path) -> None:
    model = wrap(tiny.base("bert"), tiny.config("bert"))
    if adapter != "default":
        model.add_adapter(adapter, tiny.config("bert"))
    model.save_pretrained(str(tmp_path), selected_adapters=[adapter], save_embedding_layers=False)
    folder = tmp_path if adapter == "default" else tmp_path / adapter
    modules = [f"bert.encoder.layer.{n}.attention.self.{target}" for n in (0, 1) for target in ("query", "value")]
    expected = {f"base_model.model.classifier.{name}" for name in ("weight", "bias")}
    for module in modules:
        expected |= {f"base_model.model.{module}.fedlease_{kind}.{e}" for kind in "AB" for e in range(3)}
        expected.add(f"base_model.model.{module}.fedlease_router")
    assert set(load_file(folder / "adapter_model.safetensors")) == expected


def test_state_dict_of_peft_round_trips_into_another_adapter_name() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    other = wrap(tiny.base("bert", seed=0), tiny.config("bert"))
    other.add_adapter("second", tiny.config("bert"))
    result = set_peft_model_state_dict(other, state, adapter_name="second")
    assert not result.unexpected_keys
    other.set_adapter("second")
    assert torch.equal(tiny.logits(other, ids), tiny.logits(model, ids))


def test_model_without_router_saves_and_reloads(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert", num_experts=1, mixer="none"), tiny.tokens()
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert not any("router" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert torch.equal(tiny.logits(tiny.load(tiny.base("bert"), tmp_path), ids), tiny.logits(model, ids))


# Several adapters


def two_adapters() -> tuple[PeftModel, torch.Tensor, torch.Tensor]:
    """A model with two adapters, ``default`` active, and the logits each gives when it is alone."""
    ids = tiny.tokens()
    model = tiny.mixture("bert", num_experts=2, r=3)
    first = tiny.logits(model, ids)
    alone = tiny.mixture("bert", num_experts=4, own_expert=3)
    tiny.randomise(alone, seed=5)
    model.add_adapter("second", tiny.config("bert", num_experts=4, own_expert=3))
    tiny.randomise(model, "second", seed=5)
    return model, first, tiny.logits(alone, ids)


def test_outputs_of_two_adapters_do_not_mix() -> None:
    model, first, second = two_adapters()
    ids = tiny.tokens()
    assert tiny.relative(second, first) > 1e-2
    assert torch.equal(tiny.logits(model, ids), first)
    model.set_adapter("second")
    assert torch.equal(tiny.logits(model, ids), second)
    model.set_adapter("default")
    assert torch.equal(tiny.logits(model, ids), first)


@pytest.mark.parametrize("argument", [{"adapter_names": ["default", "b", "__base__"]}, {"alora_offsets": [1, 1, 1]}])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_peft_would_take_away_unread_is_refused(kind: str, argument: dict[str, Any]) -> None:
    """PEFT hands these to the tuner and drops them: rows would silently be computed with the active adapter."""
    model = tiny.mixture(kind)
    (name,) = argument
    with pytest.raises(ValueError, match=rf"^{name} is not supported by FEDLEASE, received \["):
        model(input_ids=tiny.tokens(), **argument)
    if kind == "llama":
        with pytest.raises(ValueError, match=f"^{name} is not supported by FEDLEASE"):
            model.generate(input_ids=tiny.tokens(), max_new_tokens=1, **argument)
    assert torch.equal(tiny.logits(model, tiny.tokens()), model(input_ids=tiny.tokens(), **{name: None}).logits)


def test_an_adapter_drawn_at_random_saves_and_reloads_bit_equal(tmp_path: Path) -> None:
    model = wrap(tiny.base(), tiny.config(init_weights=False)).eval()
    model.save_pretrained(str(tmp_path))
    again = tiny.load(tiny.base(), tmp_path)
    assert torch.equal(tiny.logits(again, tiny.tokens()), tiny.logits(model, tiny.tokens()))
    assert not torch.equal(tiny.logits(again, tiny.tokens()), tiny.logits(tiny.base(), tiny.tokens()))


def test_inactive_adapter_gets_no_gradients() -> None:
    model, _, _ = two_adapters()
    assert trained_by_a_step(model, "bert") == trainable(model) == allowed(model, 0)
    model.set_adapter("second")
    assert trained_by_a_step(model, "bert") == trainable(model) == allowed(model, 3, "second")


def test_restrict_and_own_concern_one_adapter() -> None:
    model, first, second = two_adapters()
    ids = tiny.tokens()
    model.base_model.restrict((1,), "second")
    model.base_model.set_own_expert(0, "second")
    assert torch.equal(tiny.logits(model, ids), first) and trainable(model) == allowed(model, 0)
    model.base_model.restrict(None, "second")
    model.base_model.set_own_expert(3, "second")
    model.set_adapter("second")
    assert torch.equal(tiny.logits(model, ids), second)
    for call in (lambda: model.base_model.restrict(None, "third"), lambda: model.base_model.set_own_expert(0, "third")):
        with pytest.raises(ValueError, match=r"no adapter 'third', this model has \['default', 'second'\]"):
            call()


@pytest.mark.filterwarnings("ignore:Adapter default was active which is now deleted:UserWarning")
def test_deleting_an_adapter_leaves_the_other() -> None:
    model, first, second = two_adapters()
    ids = tiny.tokens()
    model.delete_adapter("default")
    model.set_adapter("second")
    assert torch.equal(tiny.logits(model, ids), second)
    assert not any("default" in name for name in model.state_dict() if "fedlease" in name)
    for layer in model.base_model.routed_layers().values():
        assert set(layer.fedlease_rules) == set(layer.fedlease_restricted) == {"second"}
    model, first, _ = two_adapters()
    model.delete_adapter("second")
    assert torch.equal(tiny.logits(model, ids), first) and trainable(model) == allowed(model, 0)


def test_adapters_may_sit_on_different_modules() -> None:
    model, ids = tiny.mixture("bert", target_modules=["query"]), tiny.tokens()
    first = tiny.logits(model, ids)
    model.add_adapter("second", tiny.config("bert", target_modules=["value"], own_expert=1))
    tiny.randomise(model, "second", seed=3)
    assert torch.equal(tiny.logits(model, ids), first)
    assert trainable(model) == allowed(model, 0)
    model.base_model.set_own_expert(2, "second")
    model.base_model.restrict((1,))
    assert not torch.equal(tiny.logits(model, ids), first)
    model.base_model.restrict(None)
    model.set_adapter("second")
    assert tiny.relative(tiny.logits(model, ids), first) > 1e-2
    assert trained_by_a_step(model, "bert") == trainable(model) == allowed(model, 2, "second")
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(tiny.logits(model, ids), first)


def test_a_second_adapter_is_loaded_beside_the_first(tmp_path: Path) -> None:
    model, first, second = two_adapters()
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    reloaded, ids = tiny.load(tiny.base("bert"), tmp_path, is_trainable=True), tiny.tokens()
    reloaded.load_adapter(str(tmp_path / "second"), "second")
    reloaded.eval()
    assert torch.equal(tiny.logits(reloaded, ids), first) and trainable(reloaded) == allowed(reloaded, 0)
    reloaded.set_adapter("second")
    assert torch.equal(tiny.logits(reloaded, ids), second)


# Switching off, unloading, merging


@pytest.mark.parametrize("kind", tiny.ALL)
def test_disabled_adapter_is_exactly_the_base_and_comes_back(kind: str) -> None:
    ids = tiny.tokens()
    plain = tiny.logits(tiny.base(kind), ids)
    model = tiny.mixture(kind)
    adapted = tiny.logits(model, ids)
    assert tiny.relative(adapted, plain) > 1e-2
    with model.disable_adapter():
        assert torch.equal(tiny.logits(model, ids), plain)
    assert torch.equal(tiny.logits(model, ids), adapted)


def test_disabled_adapter_comes_back_after_an_exception() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    adapted = tiny.logits(model, ids)
    with pytest.raises(RuntimeError, match="inside"), model.disable_adapter():
        raise RuntimeError("inside")
    assert torch.equal(tiny.logits(model, ids), adapted) and trainable(model) == allowed(model, 0)


@pytest.mark.parametrize("kind", tiny.ALL)
def test_unload_gives_back_the_base_bit_equal(kind: str) -> None:
    plain = tiny.base(kind).state_dict()
    unloaded = tiny.mixture(kind).unload()
    assert {name: tensor.shape for name, tensor in unloaded.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.items()
    }
    assert all(torch.equal(tensor, plain[name]) for name, tensor in unloaded.state_dict().items())
    assert torch.equal(tiny.logits(unloaded, tiny.tokens()), tiny.logits(tiny.base(kind), tiny.tokens()))


def test_unload_keeps_the_trained_head_as_stock_lora_does() -> None:
    for config in (tiny.config("roberta"), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")):
        model = wrap(tiny.base("roberta"), config)
        with torch.no_grad():
            model.base_model.model.classifier.modules_to_save["default"].out_proj.bias.fill_(7)
        assert model.unload().classifier.out_proj.bias.tolist() == [7, 7, 7]


class Scale(nn.Module):
    """A linear module without any parameter."""

    in_features = out_features = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_modules_without_weight_are_adapted_and_given_back() -> None:
    base = nn.Sequential(Scale())
    model = wrap(base, FedLeaseConfig(r=2, num_experts=2, target_modules=["0"]))
    tiny.randomise(model)
    x = torch.ones(3, 4)
    assert not torch.equal(model(x), 2 * x)
    unloaded = model.unload()
    assert isinstance(unloaded[0], Scale) and torch.equal(unloaded(x), 2 * x)


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter", "unmerge_adapter"])
def test_merging_is_refused_with_the_way_out_and_harms_nothing(call: str) -> None:
    model, ids = tiny.mixture("bert", own_expert=1), tiny.tokens()
    before = tiny.logits(model, ids)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot be merged.*export_expert writes one expert as an ordinary LoRA"):
        getattr(model, call)()
    assert torch.equal(tiny.logits(model, ids), before)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert trained_by_a_step(model, "bert") == allowed(model, 1)


# Evaluation and generation


def test_eval_has_no_dropout_in_the_whole_model() -> None:
    model, ids = tiny.mixture("bert", lora_dropout=0.5), tiny.tokens()
    assert torch.equal(tiny.logits(model, ids), tiny.logits(tiny.mixture("bert"), ids))
    assert not torch.equal(tiny.logits(model.train(), ids), tiny.logits(model, ids))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generate_is_deterministic_and_leaves_the_mode(kind: str, training: bool) -> None:
    model, ids = tiny.mixture(kind).train(training), tiny.tokens()
    settings = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    first = model.generate(input_ids=ids, **settings)
    assert torch.equal(model.generate(input_ids=ids, **settings), first)
    assert all(module.training == training for module in model.modules())
    with model.disable_adapter():
        assert not torch.equal(model.generate(input_ids=ids, **settings), first)


def test_generate_is_repeated_argmax_without_a_cache() -> None:
    model, ids = tiny.mixture("llama"), tiny.tokens(rows=2)
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    expected = ids
    for _ in range(4):
        chosen = tiny.logits(model, expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, chosen], -1)
    for row, other in zip(found.tolist(), expected.tolist(), strict=True):
        length = row.index(2, 5) if 2 in row[5:] else len(row)  # 2 ends a text, afterwards there is padding
        assert row[:length] == other[:length]


def test_experts_are_stacked_once_for_all_steps_of_generate_and_anew_afterwards() -> None:
    model, ids = tiny.mixture("llama"), tiny.tokens()
    layers = model.base_model.routed_layers().values()
    taken: list[int] = []
    hook = next(iter(layers)).register_forward_hook(lambda layer, *_: taken.append(id(layer.stacks["default"][0])))
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    first = model.generate(input_ids=ids, **settings)
    assert len(taken) == 3 and len(set(taken)) == 1
    hook.remove()
    assert all(layer.stacks is None for layer in layers)
    tiny.randomise(model, seed=7)
    other = tiny.mixture("llama")
    tiny.randomise(other, seed=7)
    assert torch.equal(model.generate(input_ids=ids, **settings), other.generate(input_ids=ids, **settings))
    assert not torch.equal(model.generate(input_ids=ids, **settings), first)


def test_rows_of_a_left_padded_batch_generate_what_they_do_alone() -> None:
    model = tiny.mixture("llama")
    longer, shorter = tiny.tokens(rows=1, length=6, seed=2), tiny.tokens(rows=1, length=4, seed=3)
    padding = torch.zeros(1, 2, dtype=torch.long)
    batch = torch.cat([longer, torch.cat([padding, shorter], 1)])
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    both = model.generate(input_ids=batch, attention_mask=(batch != 0).long(), **settings)
    for row, ids in enumerate((longer, shorter)):
        alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        assert both[row, 6:].tolist() == alone[0, ids.shape[1] :].tolist()


# Types


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_sixteen_bit_base_has_float32_adapters_unless_told_otherwise(autocast_adapter_dtype: bool) -> None:
    model = get_peft_model(
        tiny.base("bert").to(torch.bfloat16), tiny.config("bert"), autocast_adapter_dtype=autocast_adapter_dtype
    )
    tiny.randomise(model)
    expected = torch.float32 if autocast_adapter_dtype else torch.bfloat16
    assert {parameter.dtype for parameter in adapter_parameters(model).values()} == {expected}
    out = model(input_ids=tiny.tokens(), labels=torch.tensor([0, 1, 2]))
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    gradients = [p.grad for p in adapter_parameters(model).values() if p.grad is not None]
    assert gradients and all(g.isfinite().all() and g.dtype == expected for g in gradients)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
        model.train()
        model(input_ids=tiny.tokens(), labels=torch.tensor([0, 1, 2])).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients(tiny.mixture("bert"))
    model = tiny.mixture("bert")
    tiny.checkpoint(model, reentrant=reentrant)
    found = gradients(model)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert tiny.relative(found[name], gradient) < 1e-5, name


# What cannot be adapted


def test_default_targets_are_those_of_lora() -> None:
    model = wrap(tiny.base("bert"), tiny.config("bert", target_modules=None))
    stock = wrap(tiny.base("bert"), LoraConfig(r=2))
    assert isinstance(model.base_model, FedLeaseModel)
    assert set(model.base_model.routed_layers()) == set(stock.base_model.targeted_module_names)


def test_targets_can_be_all_linear_modules_some_layers_or_leave_some_out() -> None:
    everything = wrap(tiny.base("bert"), tiny.config("bert", target_modules="all-linear"))
    names = set(everything.base_model.routed_layers())
    assert len(names) == 2 * 6 + 1 and "bert.pooler.dense" in names and "classifier" not in names
    second = wrap(tiny.base("bert"), tiny.config("bert", layers_to_transform=[1], exclude_modules=["value"]))
    assert set(second.base_model.routed_layers()) == {"bert.encoder.layer.1.attention.self.query"}


def test_layers_are_those_that_are_there_now() -> None:
    model = wrap(tiny.base("bert", layers=1), tiny.config("bert", target_modules=["query"]))
    self_attention = "bert.encoder.layer.0.attention.self"
    assert set(model.base_model.routed_layers()) == {f"{self_attention}.query"}
    model.add_adapter("second", tiny.config("bert", target_modules=["value"]))
    assert set(model.base_model.routed_layers()) == {f"{self_attention}.query", f"{self_attention}.value"}
    model.unload()
    assert model.base_model.routed_layers() == {}


def test_target_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"Target modules \{'qwery'\} not found in the base model"):
        wrap(tiny.base("llama"), tiny.config("llama", target_modules=["qwery"]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("word_embeddings", "bert.embeddings.word_embeddings: FEDLEASE adapts linear modules, received Embedding"),
        ("encoder", "bert.encoder: FEDLEASE adapts linear modules, received BertEncoder"),
        ("pooler.activation", "bert.pooler.activation: FEDLEASE adapts linear modules, received Tanh"),
    ],
)
def test_target_that_is_not_linear_is_refused_by_its_path(target: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        wrap(tiny.base("bert"), tiny.config("bert", target_modules=[target]))
    assert str(caught.value).startswith(message)


def test_rank_larger_than_the_layer_names_the_layer() -> None:
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.self\.query: r must be at most .* 16, received 17"):
        wrap(tiny.base("bert"), tiny.config("bert", r=17))


def test_restricted_model_is_the_own_expert_alone() -> None:
    model, ids = tiny.mixture("bert", own_expert=1), tiny.tokens()
    alone = wrap(tiny.base("bert"), tiny.config("bert", num_experts=1, mixer="none"))
    source = adapter_parameters(model)
    with torch.no_grad():
        for name, parameter in adapter_parameters(alone).items():
            parameter.copy_(source[str(TensorName.parse(name)._replace(expert=1))])
    mixed = tiny.logits(model, ids)
    model.base_model.restrict((1,))
    assert tiny.relative(tiny.logits(model, ids), tiny.logits(alone, ids)) < 1e-5
    assert snapshot(source, source).keys() == source.keys()
    model.base_model.restrict(None)
    assert torch.equal(tiny.logits(model, ids), mixed)
