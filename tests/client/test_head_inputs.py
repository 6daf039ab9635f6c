"""A head that is trained in standard coordinates is the same head, with inputs of mean 0 and standard deviation 1."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from client.test_private_steps import OPTIMISER, Silent, job, trained
from client.test_stacked import Made, federation
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from fedlease.client.head_inputs import HeadInputs, head_inputs_of, random_texts
from fedlease.client.private_steps import PrivateTraining
from fedlease.client.resident import ResidentModel
from fedlease.core.row_noise import Amount
from fedlease.data.federation import Row
from fedlease.models.base import load_base, load_tokenizer
from fedlease.models.sources import locate
from fedlease.tasks.encoded import collate
from fedlease.tasks.texts import Texts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return federation(tmp_path_factory.mktemp("made"), "cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(locate("tiny-random", None, tmp_path_factory.mktemp("tiny") / "base", 0))


INPUTS = HeadInputs("head/c.weight", "head/c.bias", torch.tensor([3.0, -1.0, 0.5]), 0.25)
VALUES = {"head/c.weight": torch.tensor([[0.1, 0.2, -0.3], [1.0, 0.0, 2.0]]), "head/c.bias": torch.tensor([0.5, -2.0])}


def test_standard_coordinates_give_the_same_outputs_and_go_back() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    standard = INPUTS.standard(VALUES)
    z = (x - INPUTS.mean) / INPUTS.deviation
    wanted = x @ VALUES["head/c.weight"].T + VALUES["head/c.bias"]
    assert torch.allclose(z @ standard["head/c.weight"].T + standard["head/c.bias"], wanted, atol=1e-5)
    back = INPUTS.plain(standard)
    assert all(torch.allclose(back[name], value, atol=1e-6) for name, value in VALUES.items())


def test_gradients_are_those_with_respect_to_standard_coordinates() -> None:
    """Against automatic differentiation through the change of coordinates, row by row."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in VALUES}
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in VALUES}
    for row in x:
        plain = {name: value.clone().requires_grad_() for name, value in VALUES.items()}
        (plain["head/c.weight"] @ row + plain["head/c.bias"]).square().sum().backward()
        standard = {name: value.detach().requires_grad_() for name, value in INPUTS.standard(VALUES).items()}
        values = INPUTS.plain(standard)
        (values["head/c.weight"] @ row + values["head/c.bias"]).square().sum().backward()
        for name in VALUES:
            rows[name].append(plain[name].grad)  # type: ignore[arg-type]
            expected[name].append(standard[name].grad)  # type: ignore[arg-type]
    found = INPUTS.gradients({name: torch.stack(each) for name, each in rows.items()})
    for name in VALUES:
        assert torch.allclose(found[name], torch.stack(expected[name]), rtol=1e-4, atol=1e-4), name


def test_mean_and_deviation_are_those_of_what_the_head_receives_for_random_texts(made: Made, tokenizer: Any) -> None:
    resident = made[0]
    found = head_inputs_of(resident, tokenizer, 24)
    assert found is not None and (found.weight, found.bias) == ("head/classifier.weight", "head/classifier.bias")
    model = resident.unwrapped()
    features = []
    for text in random_texts(tokenizer):
        rows = Texts(24).encode([Row(text, None, 0)], [0], tokenizer)
        with torch.no_grad():
            features.append(model.bert(**collate(rows, [0], resident.device)[0]).pooler_output[0])
    x = torch.stack(features)
    assert torch.allclose(found.mean, x.mean(0), atol=1e-5)
    assert found.deviation == pytest.approx(float((x - x.mean(0)).square().mean().sqrt()), rel=1e-4)


def test_everyone_draws_the_same_texts_and_no_special_token(tokenizer: Any) -> None:
    texts = random_texts(tokenizer)
    torch.manual_seed(5)
    assert texts == random_texts(tokenizer) and len(set(texts)) > 32
    assert not any(token in text for text in texts for token in tokenizer.all_special_tokens)


SIZES = {"vocab_size": 512, "num_labels": 2, "pad_token_id": 0}
OTHERS = {
    "two layers": (
        DistilBertForSequenceClassification,
        DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40, **SIZES),
        "head/pre_classifier",
        True,
    ),
    "no bias": (
        GPT2ForSequenceClassification,
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=80, **SIZES),
        "head/score",
        False,
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_first_layer_of_other_heads_is_found(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    model, config, layer, has_bias = OTHERS[kind]
    model(config).save_pretrained(tmp_path)
    base = load_base(locate(str(tmp_path), None, tmp_path, 0), dtype="float32", dropout=False)
    found = head_inputs_of(ResidentModel(base, torch.device("cpu")), tokenizer, 24)
    assert found is not None and found.weight == f"{layer}.weight" and found.deviation > 0
    assert found.bias == (f"{layer}.bias" if has_bias else None)
    assert bool(found.mean.any()) == has_bias


def private(made: Made, inputs: HeadInputs | None) -> PrivateTraining:
    terms = Silent(8.0, 1e-3, 1e9, 9, {"fedit": Amount(2)}, 0)
    return PrivateTraining(made[0], terms, made[2].spec.target_modules, inputs)


def test_a_step_is_adamw_in_standard_coordinates_and_the_model_has_the_plain_ones(made: Made) -> None:
    """Of one step without noise or bound, V and c move by the learning rate, against the sign of their gradients."""
    found = HeadInputs("head/classifier.weight", "head/classifier.bias", torch.full((32,), 0.5), 0.1)
    wanted = job(made, "a")
    (stage,) = wanted.task.stages
    training = private(made, found)
    made[0].load(wanted.task.model, wanted.num_labels, wanted.tensors)
    made[0].train_only(stage.trainable)
    steps = training.steps(wanted.task, stage, wanted.rows, ("a",))
    before = found.standard({name: value.detach().clone() for name, value in made[0].parameters.items()})
    adamw = torch.optim.AdamW(steps.parameters, lr=0.01, weight_decay=0.0)
    steps.backward(list(range(len(wanted.rows))))
    signs = {name: steps._learning[name].grad.sign() for name in before}  # type: ignore[union-attr]
    adamw.step()
    steps.stepped()
    after = found.standard({name: value.detach() for name, value in made[0].parameters.items()})
    made[0].at_rest()
    for name, value in before.items():
        assert torch.allclose(after[name], value - 0.01 * signs[name], atol=1e-4), name


def test_a_head_that_is_not_trained_keeps_its_values(made: Made) -> None:
    found = HeadInputs("head/classifier.weight", "head/classifier.bias", torch.full((32,), 0.5), 0.1)
    wanted = job(made, "a")
    (stage,) = wanted.task.stages
    adapter = frozenset(name for name in stage.trainable if not name.startswith("head/"))
    alone = replace(wanted, task=replace(wanted.task, stages=(replace(stage, trainable=adapter),)))
    with_inputs = trained(made, alone, private(made, found), OPTIMISER).update.tensors
    without = trained(made, alone, private(made, None), OPTIMISER).update.tensors
    assert all(torch.equal(with_inputs[name], value) for name, value in without.items())
