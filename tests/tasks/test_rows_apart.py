"""A row's loss, prediction and answer do not depend on which rows share its batch, or the model is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.architectures import ADDED, ARCHITECTURES, DECODERS, OTHER, save, variant
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from fedlease.client.batch_check import check_batches
from fedlease.client.resident import ResidentModel
from fedlease.core.types import ANCHOR, AdapterSpec, Budget, ClientModel, TensorName
from fedlease.data.federation import Row
from fedlease.errors import ModelError
from fedlease.methods.feddpa import FedDPA
from fedlease.methods.local import Local
from fedlease.models.base import BaseModel, initial_head, load_base, load_tokenizer
from fedlease.models.sources import ModelSource
from fedlease.tasks.base import Task
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.generation import Generation
from fedlease.tasks.texts import evaluate
from fedlease.use.serving.mixed import MixedModel

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")

CPU = torch.device("cpu")
TEXTS = ["ab", "a text that is longer than all of the others", "it ends </s> and goes on", "</s>", "<pad> x"]
ROWS = [Row(text, None, i % 2) for i, text in enumerate(TEXTS)]
PROMPTS = [Row(text, None, 0, answer) for text, answer in zip(TEXTS, ("b", "as it is", "no", "yes", "x"), strict=True)]

# What was saved with a model: entries of its configuration, options of its tokenizer.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it should be": ({}, {}),
    "padding on the left": ({}, {"padding_side": "left"}),
    "another padding id": ({"pad_token_id": OTHER}, {"padding_side": "left"}),
    "no padding": ({"pad_token_id": None}, {"pad_token": None}),
    "no mask": ({}, {"model_input_names": ["input_ids"]}),
}
NOT_MIXED = {"deberta-v2", "xlnet"}
"""Whose adapted modules see positions, or tokens before rows."""

CASES = [
    *((name, "as it should be") for name in ARCHITECTURES),
    # Whoever counts positions in its own way: from the padding on, from the mask, relative to others, from the end.
    *((name, given) for name in ("roberta", "deberta-v2", "xlnet", "gpt2", "llama", "t5", "bart")
      for given in VARIANTS if given != "as it should be"),
]  # fmt: skip

PROMPTED = [
    *((name, "as it should be") for name in DECODERS),
    # Positions of a table, counted from the first token or from the mask, and turned by the place.
    *((name, given) for name in ("gpt2", "opt", "llama")
      for given in ("another padding id", "no padding", "end token appended")),
]  # fmt: skip

Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    found: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in found:
            found[name] = save(name, tmp_path_factory.mktemp("models") / name)
        return found[name]

    return of


def opened(folder: Path, task: Task) -> tuple[ResidentModel, BaseModel, Any]:
    """As a run opens a model."""
    source, name = ModelSource(folder.name, str(folder)), type(task).__name__.lower()
    tokenizer = load_tokenizer(source, name)
    base = load_base(source, dtype="float32", dropout=False, tokenizer=tokenizer, task=name)
    return ResidentModel(base, CPU, None, task), base, tokenizer


def shapes_of(name: str, base: BaseModel) -> dict[str, tuple[int, int]]:
    endings = ARCHITECTURES[name][3]
    found = {}
    for path, module in base.model.named_modules():
        if path.endswith(tuple(f".{ending}" for ending in endings)):
            into, out = module.weight.shape if isinstance(module, Conv1D) else module.weight.T.shape
            found[path] = (int(into), int(out))
    assert len(found) >= 2
    return found


def model_of(shapes: dict[str, tuple[int, int]], mixer: str, seed: int = 0) -> ClientModel:
    """Two random experts, routed as ``mixer`` says, or one."""
    draw = torch.Generator().manual_seed(seed)
    count = 1 if mixer == "none" else 2
    spec = AdapterSpec(2, 4.0, 0.0, tuple(shapes), count, mixer=mixer, anchors=int(mixer == "instance"), blend=1.0)
    tensors = {}
    for module, (into, out) in shapes.items():
        for e in range(count):
            tensors[str(TensorName(module, "A", e))] = torch.randn(2, into, generator=draw) * 0.3
            tensors[str(TensorName(module, "B", e))] = torch.randn(out, 2, generator=draw) * 0.3
        if mixer == "top_m":
            tensors[str(TensorName(module, "G"))] = torch.randn(3, into, generator=draw)
    return ClientModel(spec, tensors)


def with_head(model: ClientModel, resident: ResidentModel, labels: int, seed: int = 1) -> ClientModel:
    head = initial_head(resident.head_modules(labels), seed, std=0.3)
    return ClientModel(model.spec, {**model.tensors, **head})


def hundredth(alone: Tensor) -> float:
    """Of how far rows lie apart: far less than a wrong place or position makes, far more than rounding does."""
    found = float((alone - alone.mean(0)).abs().max()) / 100
    assert found > 1e-5
    return found


def assert_close(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "given"), CASES)
def test_classified_rows(name: str, given: str, saved: Saved, tmp_path: Path) -> None:
    """Training loss, scores, and served rows of several clients; alone there is no padding and no company."""
    config, options = VARIANTS[given]
    kind = ARCHITECTURES[name][0]
    if kind == "encoder-decoder" and given == "no padding":
        config = {}  # their configurations cannot be without
    folder = variant(saved(name), tmp_path / name, ADDED[kind], config, **options)
    task = Classification(64)
    resident, base, tokenizer = opened(folder, task)
    shapes = shapes_of(name, base)
    models = {client: with_head(model_of(shapes, "top_m", i), resident, 2 + i, i) for i, client in enumerate("ab")}
    rows = task.encode(ROWS, tokenizer)
    resident.load(models["a"], 2)
    resident.for_scoring()
    alone = torch.cat([evaluate(resident, task.encode([row], tokenizer), 1) for row in ROWS])
    atol = hundredth(alone)
    assert_close(evaluate(resident, rows, 1), alone, atol)
    losses = [task.batch_loss(resident, rows, [i]) for i in range(len(ROWS))]
    assert_close(task.batch_loss(resident, rows, list(range(len(ROWS)))), torch.stack(losses).mean(), atol)

    mixed = MixedModel(base, CPU, models.__getitem__, {"a": 2, "b": 3})
    places = [0, 1, 2, 3, 4, 1, 0]
    clients = ["a", "b", "a", "b", "a", "a", "b"]
    inputs = rows.pad(places, CPU)
    if name in NOT_MIXED:
        with pytest.raises(ModelError, match="can be computed together only where rows come first"):
            mixed.logits(inputs, clients)
        return
    found = mixed.logits(inputs, clients)
    resident.load(models["b"], 3)
    resident.for_scoring()
    of_b = {place: evaluate(resident, rows_at(rows, place), 1)[0] for place in (0, 1, 3)}
    for place, client, logits in zip(places, clients, found, strict=True):
        assert_close(logits, alone[place] if client == "a" else of_b[place], atol)


def rows_at(rows: Any, place: int) -> Any:
    """One of several encoded rows."""
    return Encoded.of({"input_ids": [rows.columns["input_ids"][place]]}, [0], rows.pad_id, left=rows.left)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inputs_that_are_weighed_by_themselves(name: str, saved: Saved, tmp_path: Path) -> None:
    """FedDPA's shares are each row's own; where modules do not see rows first, the pair is refused before training."""
    folder = variant(saved(name), tmp_path / name, ADDED[ARCHITECTURES[name][0]])
    task = Classification(64)
    resident, base, tokenizer = opened(folder, task)
    shapes = shapes_of(name, base)
    budget = Budget(1, 1, 1)
    plain = model_of(shapes, "none")
    check_batches(resident, tokenizer, plain, name, {"local": Local(budget)}, ["a"])
    methods = {"feddpa": FedDPA(budget)}
    if name in NOT_MIXED:
        with pytest.raises(ModelError, match=f"^method: 'feddpa' weighs every input by itself; model: .*'{name}'"):
            check_batches(resident, tokenizer, plain, name, methods, ["a"])
        return
    check_batches(resident, tokenizer, plain, name, methods, ["a"])
    rows = task.encode(ROWS, tokenizer)
    weighed = with_head(model_of(shapes, "instance"), resident, 2)
    resident.load(weighed, 2)
    resident.for_scoring()
    anchor = resident.represent(rows.questions([1, 4], CPU)).mean(0)
    resident.load(ClientModel(weighed.spec, {**weighed.tensors, ANCHOR: anchor}), 2)
    resident.for_scoring()
    alone = torch.cat([evaluate(resident, task.encode([row], tokenizer), 1) for row in ROWS])
    assert_close(evaluate(resident, rows, 1), alone, hundredth(alone))


@pytest.mark.parametrize(("name", "given"), PROMPTED)
def test_prompts_and_answers(name: str, given: str, saved: Saved, tmp_path: Path) -> None:
    """Training loss, scored loss, and what is written; a repetition penalty of the model would read padding too."""
    config, options = VARIANTS.get(given, ({}, {}))
    added = "<s> $A </s>" if given == "end token appended" else ADDED["decoder"]
    folder = variant(saved(name), tmp_path / name, added, config, **options)
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.5, "eos_token_id": 3}')
    task = Generation(64, 4)
    resident, base, tokenizer = opened(folder, task)
    shapes = shapes_of(name, base)
    for mixer in ("top_m", "instance"):
        model = model_of(shapes, mixer)
        resident.load(model, 0)
        resident.for_scoring()
        rows = task.encode(PROMPTS, tokenizer)
        if mixer == "instance":
            anchor = resident.represent(rows.questions([1, 4], CPU)).mean(0)
            resident.load(ClientModel(model.spec, {**model.tensors, ANCHOR: anchor}), 0)
            resident.for_scoring()
        everyone = list(range(len(PROMPTS)))
        single = [task.encode([row], tokenizer) for row in PROMPTS]
        losses = torch.tensor([task.mean_loss(resident, row, 1) * row.labels[0] for row in single])
        assert_close(torch.tensor(task.mean_loss(resident, rows, 1)), losses.sum() / sum(rows.labels), 1e-3)
        if mixer == "top_m":
            assert_close(task.batch_loss(resident, rows, everyone), losses.sum() / sum(rows.labels), 1e-3)
        answers = [task.write(resident, row, 1)[0] for row in single]
        assert task.write(resident, rows, 1) == answers
        assert len(set(answers)) > 1


@pytest.mark.parametrize("name", ["xlnet", "roberta", "bart"])
def test_what_is_no_causal_model_or_reads_padding_is_refused(name: str, tmp_path: Path) -> None:
    """XLNet and RoBERTa see what comes after a token, BART's decoder counts positions from the padding on."""
    settings = ARCHITECTURES[name]
    folder = variant(save(name, tmp_path / "saved", causal=True), tmp_path / name, ADDED["decoder"])
    resident, base, tokenizer = opened(folder, Generation(64, 4))
    with pytest.raises(ModelError, match=r"for a row depends on (tokens behind it|the rows that share its batch)"):
        check_batches(resident, tokenizer, model_of(shapes_of(name, base), "none"), settings[1], {}, ["a"])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_check_sees_padding_on_the_wrong_side(name: str, saved: Saved, tmp_path: Path) -> None:
    """An encoder would be read at its padding; a decoder with learnt positions would count them from there."""
    folder = variant(saved(name), tmp_path / name, ADDED[ARCHITECTURES[name][0]])
    resident, base, tokenizer = opened(folder, Classification(64))
    tokenizer.padding_side = "left"
    with pytest.raises(ModelError, match=r"the prediction of 'the model' for a row depends on the rows that share"):
        check_batches(resident, tokenizer, model_of(shapes_of(name, base), "none"), "the model", {}, ["a"])


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_tokenizer_without_the_end_token_that_is_read_is_refused(name: str, saved: Saved, tmp_path: Path) -> None:
    folder = variant(saved(name), tmp_path / name, "$A")
    resident, base, tokenizer = opened(folder, Classification(64))
    with pytest.raises(ModelError, match="is read at its end token 3, which its tokenizer does not append to a text"):
        check_batches(resident, tokenizer, model_of(shapes_of(name, base), "none"), name, {}, ["a"])


@pytest.mark.parametrize("name", ["bert", "bart", "llama"])
def test_single_texts_and_pairs_in_one_batch(name: str, saved: Saved, tmp_path: Path) -> None:
    folder = variant(saved(name), tmp_path / name, ADDED[ARCHITECTURES[name][0]])
    task = Classification(64)
    resident, base, tokenizer = opened(folder, task)
    resident.load(with_head(model_of(shapes_of(name, base), "none"), resident, 2), 2)
    rows = [Row("ab", None, 0), Row("a longer text", "and another", 1), Row("ab", "", 1), Row("c", None, 0)]
    alone = torch.cat([evaluate(resident, task.encode([row], tokenizer), 1) for row in rows])
    assert_close(evaluate(resident, task.encode(rows, tokenizer), 1), alone, hundredth(alone))


def test_long_rows_are_cut_on_the_right_whatever_was_saved(saved: Saved, tmp_path: Path) -> None:
    folder = variant(saved("bert"), tmp_path / "bert", "<s> $A </s>", truncation_side="left")
    tokenizer = opened(folder, Classification(5))[2]
    encoded = Classification(5).encode([Row("abcdef", None, 0)], tokenizer)
    assert tokenizer.decode(encoded.columns["input_ids"][0]) == "<s>abc</s>"
