"""Answers alone are learnt; batches, padding and generation agree with one row at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from fedlease.client.resident import ResidentModel
from fedlease.core.adapters import initial_adapter
from fedlease.data.federation import Row
from fedlease.models.base import load_base, load_tokenizer
from fedlease.models.sources import ModelSource, locate
from fedlease.models.targets import target_shapes
from fedlease.tasks.encoded import IGNORED, EncodedPrompts, answer_loss, collate
from fedlease.tasks.generation import Generation

CPU = torch.device("cpu")
ROWS = [
    Row("abc def", None, 0, response="def"),
    Row("a longer prompt than the others", None, 0, response="yes it is"),
    Row("x", None, 0, response="y"),
]


def ask(text: str, response: str | None = None) -> Row:
    return Row(text, None, 0, response=response)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return locate("tiny-random", None, tmp_path_factory.mktemp("tiny") / "base", 0, "generation")


@pytest.fixture(scope="module")
def tokenizer(source: ModelSource) -> Any:
    return load_tokenizer(source)


def resident_of(source: ModelSource, task: Generation) -> ResidentModel:
    base = load_base(source, dtype="float32", dropout=False, task="generation")
    resident = ResidentModel(base, CPU, None, task)
    adapter = initial_adapter(target_shapes(base, None, 4), r=4, alpha=8, dropout=0.0, seed=0)
    trained = {
        name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)) * 0.3
        for i, (name, tensor) in enumerate(sorted(adapter.tensors.items()))
    }
    resident.load(adapter, 0, trained)
    return resident


@pytest.fixture(scope="module")
def resident(source: ModelSource) -> ResidentModel:
    return resident_of(source, Generation(64, 6))


def test_only_answers_and_their_end_have_labels(tokenizer: Any) -> None:
    """The template of the tiny model is a line per message; one token is one byte."""
    task = Generation(64)
    encoded = task.encode(ROWS, tokenizer)
    assert encoded.lengths == [len("abc def\n") + 4, len("a longer prompt than the others\n") + 10, 2 + 2]
    assert encoded.labels == (4, 10, 2)
    inputs, labels = collate(encoded, [0, 1, 2], CPU)
    assert labels.shape == (3, 10) and inputs["input_ids"].shape == (3, 42)
    end = tokenizer.eos_token_id
    for line, row in enumerate(ROWS):
        taught = labels[line][labels[line] != IGNORED]
        assert taught[-1] == end
        assert tokenizer.decode(taught[:-1]) == row.response
        assert torch.equal(taught, inputs["input_ids"][line, -len(taught) :])
        # Nothing but the prompt's end comes before the first taught token.
        assert inputs["attention_mask"][line].sum() == encoded.lengths[line]


def test_the_loss_is_the_mean_over_answer_tokens_of_rows_by_themselves(resident: ResidentModel, tokenizer: Any) -> None:
    """Held against a loop over rows without padding, with all logits."""
    task = Generation(64)
    encoded = task.encode(ROWS, tokenizer)
    total, count = 0.0, 0
    for place, answer in enumerate(encoded.labels):
        ids = encoded.columns["input_ids"][place]
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            logits = resident.model(input_ids=tokens).logits[0]
        start = len(ids) - answer
        total += float(F.cross_entropy(logits[start - 1 : -1], tokens[0, start:], reduction="sum"))
        count += answer
    assert task.batch_loss(resident, encoded, [0, 1, 2]).item() == pytest.approx(total / count, rel=1e-5)
    assert task.mean_loss(resident, encoded, 1) == pytest.approx(total / count, rel=1e-5)


def test_the_prompt_gets_no_gradient_of_its_own() -> None:
    """Changing what the loss ignores changes nothing."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7, requires_grad=True)
    labels = torch.tensor([[IGNORED, 2, 3], [1, 1, 5]])
    answer_loss(logits, labels).backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, 0] == 0).all()) and bool((logits.grad[:, -1] == 0).all())
    assert bool((logits.grad[1, 0] != 0).any())


@pytest.mark.parametrize("positions", ["rotary", "learnt"])
def test_padding_changes_no_loss_and_no_answer(
    positions: str, resident: ResidentModel, tokenizer: Any, tmp_path: Path
) -> None:
    """GPT-Neo has learnt positions; they begin at the text, not at its padding."""
    task = Generation(64, 5)
    if positions == "learnt":
        torch.manual_seed(0)
        config = GPTNeoConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=128,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global"], 2]],
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        GPTNeoForCausalLM(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        found = ModelSource("neo", str(tmp_path))
        base = load_base(found, dtype="float32", dropout=False, task="generation")
        resident = ResidentModel(base, CPU, None, task)
        resident.load(initial_adapter(target_shapes(base, None, 2), r=2, alpha=4, dropout=0.0, seed=0), 0)
    alone = [task.encode([row], tokenizer) for row in ROWS]
    together = task.encode(ROWS, tokenizer)
    one_by_one = [task.mean_loss(resident, rows, 1) * rows.labels[0] for rows in alone]
    assert task.mean_loss(resident, together, 1) == pytest.approx(sum(one_by_one) / sum(together.labels), rel=1e-5)
    answers = [task.write(resident, rows, 1)[0] for rows in alone]
    assert task.write(resident, together, 1) == answers
    assert len(set(answers)) > 1


def test_answers_do_not_depend_on_references_batches_or_the_call(resident: ResidentModel, tokenizer: Any) -> None:
    task = Generation(64, 6)
    answers = task.write(resident, task.encode(ROWS, tokenizer), 1)
    assert task.write(resident, task.encode([ask(row.text) for row in ROWS], tokenizer), 1) == answers
    assert Generation(64, 6, batch_size=1).write(resident, task.encode(ROWS, tokenizer), 1) == answers
    seen: list[tuple[int, int]] = []
    Generation(64, 6, batch_size=2).write(resident, task.encode(ROWS, tokenizer), 1, lambda *a: seen.append(a))
    assert seen == [(2, 3), (3, 3)]


def test_a_stop_text_ends_an_answer_and_is_cut_off(resident: ResidentModel, tokenizer: Any) -> None:
    free = Generation(64, 6).write(resident, task_rows := Generation(64, 6).encode(ROWS[:1], tokenizer), 1)[0]
    assert len(free) > 2
    stop = free[1]
    assert Generation(64, 6, stop=(stop,)).write(resident, task_rows, 1) == [free.split(stop)[0].strip()]


def test_pieces_of_an_answer_make_the_answer(resident: ResidentModel, tokenizer: Any) -> None:
    task = Generation(64, 6)
    pieces: list[str] = []
    answer = task.write(resident, task.encode([ask("hello")], tokenizer), 1, on_text=pieces.append)[0]
    assert "".join(pieces).strip() == answer


def test_a_long_prompt_is_cut_so_that_the_answer_stays(tokenizer: Any) -> None:
    """32 tokens: an answer of 3 and its end leave 28 for the prompt, of which one is the template's newline."""
    encoded = Generation(32).encode([ask("p" * 60, "abc"), ask("q", "r")], tokenizer)
    assert tokenizer.decode(encoded.columns["input_ids"][0]) == "p" * 27 + "\nabc" + tokenizer.eos_token
    assert (encoded.truncated, encoded.shortened) == (1, 0)
    assert Generation(32).warnings([encoded]) == ["1 of 2 prompts were cut to data.max_tokens = 32"]


def test_a_long_answer_leaves_half_to_the_prompt(tokenizer: Any) -> None:
    """32 tokens: a prompt of 30 keeps 16, the answer gets the other 16; it has no end then, since it did not end."""
    encoded = Generation(32).encode([ask("p" * 29, "a" * 50)], tokenizer)
    assert tokenizer.decode(encoded.columns["input_ids"][0]) == "p" * 15 + "\n" + "a" * 16
    assert (encoded.truncated, encoded.shortened) == (1, 1)
    assert Generation(32).warnings([encoded, encoded]) == [
        "2 of 2 prompts were cut to data.max_tokens = 32",
        "2 of 2 answers were cut to data.max_tokens = 32",
    ]


def test_first_rows_keep_what_belongs_to_them(tokenizer: Any) -> None:
    encoded = Generation(64).encode(ROWS, tokenizer).first(2)
    assert isinstance(encoded, EncodedPrompts)
    assert (len(encoded), encoded.references, encoded.lengths) == (2, ("def", "yes it is"), [12, 42])


def test_measured_is_what_was_written_row_by_row(
    resident: ResidentModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Generation(64, num_samples=1)
    said = ["def", "no it is a very long answer", "z"]
    monkeypatch.setattr(Generation, "write", lambda *a, **k: said)
    found = task.measure(resident, task.encode(ROWS, tokenizer), 1)
    # "yes it is" against "no it is a very long answer": 2 words in common of 3 and 7.
    assert found.per_row == pytest.approx((1.0, 2 * 2 / (3 + 7), 0.0))
    assert found.metrics["rouge1"] == pytest.approx(sum(found.per_row) / 3)
    assert found.metrics["exact_match"] == pytest.approx(1 / 3)
    assert found.metrics["answer_accuracy"] == pytest.approx(1 / 3)
    assert found.metrics["loss"] == pytest.approx(task.mean_loss(resident, task.encode(ROWS, tokenizer), 1))
    assert found.answers == tuple(said)
    assert task.samples(ROWS, said, ["1", "2", "3"]) == [
        {"prompt": "abc def", "reference": "def", "base": "1", "answer": "def"}
    ]


def test_the_majority_baseline_gives_the_most_frequent_answer() -> None:
    task = Generation(64)
    train = [ask("p", answer) for answer in ("no", "yes", "yes", "no", "maybe")]
    # A tie between no and yes: the first in the alphabet.
    assert task.majority_score(train, [ask("q", "no"), ask("q", "yes"), ask("q", "no no")]) == pytest.approx(
        (1 + 0 + 2 / 3) / 3
    )
