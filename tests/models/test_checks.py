"""A base whose weights, configuration and tokenizer do not go together is refused, in sentences."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import ARCHITECTURES, VOCABULARY, edit, edit_weights, save_checkpoint
from transformers import PreTrainedTokenizerFast

from fedlease.errors import ModelError
from fedlease.models.base import BaseModel, initial_head, load_base, load_tokenizer, new_head_modules
from fedlease.models.checks import longest_input
from fedlease.models.sources import ModelSource
from fedlease.models.targets import target_shapes


def loaded(folder: Path, **how: Any) -> BaseModel:
    given = {"dtype": "float32", "dropout": False, **how}
    return load_base(ModelSource(folder.name, str(folder)), **given)


def faults(folder: Path, **how: Any) -> tuple[str, ...]:
    with pytest.raises(ModelError) as caught:
        loaded(folder, **how)
    assert not any("\n" in fault for fault in caught.value.faults)
    return caught.value.faults


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_pretraining_leaves_is_a_base(name: str, tmp_path: Path) -> None:
    base = loaded(save_checkpoint(tmp_path / name, name, tokenizer=None))
    # Masked language modelling trains no pooler; of these architectures two classify by it.
    pooler = {"bert": "bert.pooler", "albert": "albert.pooler"}.get(name)
    assert base.head_modules[:-1] == (pooler,) if pooler else not any("bert.pooler" in h for h in base.head_modules)
    assert bool(base.warnings) == (pooler is not None)
    again = loaded(tmp_path / name)
    same = dict(again.model.named_parameters())
    for path, parameter in base.model.named_parameters():
        if not any(path.startswith(f"{head}.") for head in base.head_modules):
            assert torch.equal(parameter, same[path]), path


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_a_pooler_that_was_never_trained_begins_with_the_head_at_values_of_the_seed(name: str, tmp_path: Path) -> None:
    base = loaded(save_checkpoint(tmp_path / name, name, tokenizer=None))
    pooler = base.head_modules[0]
    (said,) = base.warnings
    assert said.startswith(f"model '{name}': its checkpoint has no weights for {pooler}, as after masked language")
    heads = [initial_head(new_head_modules(base, 3), seed) for seed in (0, 0, 1)]
    weights = [name for name in heads[0] if pooler in name and name.endswith("weight")]
    assert len(weights) == 1
    assert torch.equal(heads[0][weights[0]], heads[1][weights[0]])
    assert not torch.equal(heads[0][weights[0]], heads[2][weights[0]])
    assert not any("pooler" in target for target in target_shapes(base, None, 4))


def test_a_pooler_in_part_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "bert-body", tokenizer=None)
    edit_weights(folder, lambda held: {n: t for n, t in held.items() if n != "pooler.dense.bias"})
    (said,) = faults(folder)
    assert said == f"model: the weights in {folder} lack bert.pooler.dense.bias, which config.json asks for"


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5"])
def test_a_configuration_with_more_or_fewer_layers_than_the_weights_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", name, tokenizer=None)
    key = {"gpt2": "n_layer", "t5": "num_layers"}.get(name, "num_hidden_layers")
    edit(folder / "config.json", **{key: 4})
    (said,) = faults(folder)
    assert said.startswith(f"model: the weights in {folder} lack ") and said.endswith(", which config.json asks for")
    edit(folder / "config.json", **{key: 1})
    (said,) = faults(folder)
    assert said.startswith(f"model: the weights in {folder} hold ") and said.endswith(", which config.json leaves out")


def test_weights_under_other_names_are_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "bert-body", tokenizer=None)
    edit_weights(folder, lambda held: {f"module.{name}": tensor for name, tensor in held.items()})
    (said,) = faults(folder)
    assert "lack 37 tensors such as bert.embeddings.LayerNorm.bias, which config.json asks for, and hold 39" in said


def test_weights_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "bert-body", tokenizer=None)
    edit(folder / "config.json", vocab_size=7)
    (said,) = faults(folder)
    name = "bert.embeddings.word_embeddings.weight"
    assert f"do not fit: {name} has the shape (260, 16) in the file and (7, 16) by config.json" in said
    # A head of another size is drawn anew whatever the file holds.
    good = save_checkpoint(tmp_path / "g", "bert-body", tokenizer=None)
    edit_weights(
        good, lambda held: {**held, "classifier.weight": torch.zeros(5, 16), "classifier.bias": torch.zeros(5)}
    )
    assert loaded(good).head_modules == ("classifier",)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_biases_that_the_configuration_leaves_out_or_adds_are_refused(task: Any, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "with", "llama", tokenizer=None, attention_bias=True)
    edit(folder / "config.json", attention_bias=False)
    (said,) = faults(folder, task=task)
    assert "hold 8 tensors such as model.layers.0.self_attn.k_proj.bias, which config.json leaves out" in said
    folder = save_checkpoint(tmp_path / "without", "llama", tokenizer=None)
    edit(folder / "config.json", attention_bias=True)
    (said,) = faults(folder, task=task)
    assert "lack 8 tensors such as model.layers.0.self_attn.k_proj.bias, which config.json asks for" in said


def test_a_language_model_without_its_output_layer_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama", tokenizer=None, tie_word_embeddings=False)
    edit_weights(folder, lambda held: {n: t for n, t in held.items() if n != "lm_head.weight"})
    assert faults(folder, task="generation") == (
        f"model: the weights in {folder} lack lm_head.weight, which config.json asks for",
    )
    assert loaded(folder).head_modules == ("score",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}, "cannot be loaded: "),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "cannot be loaded: "),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "the device is 'cpu'"),
        ({"attn_implementation": "flash_attention_2"}, "cannot be loaded: "),
        ({"model_type": "no-such-model"}, "cannot be loaded: "),
        ({"hidden_size": "wide"}, "cannot be loaded: "),
        ({"num_attention_heads": 0}, "cannot be loaded: "),
    ],
)
def test_whatever_keeps_a_base_from_loading_is_one_sentence(changes: Any, said: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama", tokenizer=None)
    edit(folder / "config.json", **changes)
    (fault,) = faults(folder)
    assert fault.startswith("model: ") and said in fault and len(fault) < 500


def test_a_quantised_base_is_not_quantised_again(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama", tokenizer=None)
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    pytest.importorskip("bitsandbytes")
    (fault,) = faults(folder, quantisation="int8")
    assert fault == "base.quantisation: 'int8' is not possible for 'm', which is already quantised (gptq)"


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", name, tokenizer=None)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(ModelSource("m", str(folder)))
    save_checkpoint(tmp_path / "n", name)
    (tmp_path / "n" / "tokenizer.json").unlink()  # its settings alone are no tokenizer
    with pytest.raises(ModelError, match=r"holds no tokenizer|the tokenizer in .* cannot be loaded"):
        load_tokenizer(ModelSource("n", str(tmp_path / "n")))


def test_more_tokens_than_embeddings_are_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "bert")
    tokenizer = load_tokenizer(ModelSource("m", str(folder)))
    assert loaded(folder, tokenizer=tokenizer).head_modules
    tokenizer.add_tokens(["invoice9", "bill9"])
    (said,) = faults(folder, tokenizer=tokenizer)
    assert f"knows {VOCABULARY + 2} tokens, its model has embeddings for {VOCABULARY}; call model.resize_token" in said
    # More embeddings than tokens are usual.
    wide = save_checkpoint(tmp_path / "w", "bert", vocab_size=VOCABULARY + 2)
    assert loaded(wide, tokenizer=tokenizer).head_modules


def test_generation_needs_an_end_token_and_classification_does_not(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama", tokenizer="generation")
    found = PreTrainedTokenizerFast.from_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=found.backend_tokenizer, pad_token="[PAD]").save_pretrained(folder)
    source = ModelSource("m", str(folder))
    assert load_tokenizer(source).pad_token_id == 0
    with pytest.raises(ModelError, match="model 'm': its tokenizer has no end token, so no answer would ever end"):
        load_tokenizer(source, "generation")


@pytest.mark.parametrize(
    ("name", "positions", "limit"),
    [
        ("bert", 40, 40),
        ("gpt2", 40, 40),
        ("opt", 40, 40),
        # One table for padding (0) and texts: positions 1 .. 39.
        ("roberta", 40, 39),
        ("xlm-roberta", 40, 39),
        ("camembert", 40, 39),
        # MPNet's padding is 1 whatever the configuration says: positions 2 .. 39.
        ("mpnet", 40, 38),
        ("xlnet", None, 512),
        ("t5", None, 512),
    ],
)
def test_the_longest_input_is_what_positions_and_tokenizer_allow(
    name: str, positions: int | None, limit: int, tmp_path: Path
) -> None:
    more = {"n_positions" if name == "gpt2" else "max_position_embeddings": positions} if positions else {}
    folder = save_checkpoint(tmp_path / "m", name, **more)
    tokenizer = load_tokenizer(ModelSource("m", str(folder)))
    assert tokenizer.model_max_length == 512
    model = loaded(folder).model
    assert longest_input(model, tokenizer) == limit
    tokenizer.model_max_length = 7
    assert longest_input(model, tokenizer) == 7
    if positions is not None:
        # The limit is the model's: one token more has no position.
        longest = torch.full((1, limit + 1), 5)
        with pytest.raises((IndexError, RuntimeError)), torch.inference_mode():
            model(input_ids=longest)
        with torch.inference_mode():
            model(input_ids=longest[:, :limit])


def test_roberta_says_its_limit(tmp_path: Path) -> None:
    from small import small_settings

    from fedlease.errors import ConfigError
    from fedlease.runs.open import load_run

    folder = save_checkpoint(tmp_path / "m", "roberta", max_position_embeddings=40)
    with pytest.raises(ConfigError, match=r"data\.max_tokens: 40 are more than the 39 tokens that model"):
        load_run(small_settings(model=str(folder), data__max_tokens=40))
    shutil.rmtree(folder)
    folder = save_checkpoint(folder, "xlnet")
    settings = small_settings(model=str(folder), data__max_tokens=512, lora__target_modules=["layer_1"])
    assert load_run(settings).base.head_modules
