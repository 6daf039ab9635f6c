"""Templates, and what a prompt loses when it is too long."""

from pathlib import Path
from typing import Any

import pytest
from tasks import architectures

from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.errors import ConfigError, DataError
from fedlease.models.base import load_tokenizer
from fedlease.models.sources import locate
from fedlease.tasks.generation import Generation
from fedlease.tasks.prompts import Prompts

CHAT = Row("last", None, 0, turns=(("system", "be"), ("user", "one"), ("assistant", "two")))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(locate("tiny-random", None, tmp_path_factory.mktemp("t") / "base", 0, "generation"))


@pytest.fixture
def bare(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    return tokenizer


def test_the_tokenizers_template_is_taken_where_there_is_one(tokenizer: Any) -> None:
    assert Prompts(tokenizer).text(CHAT, Faults()) == "be\none\ntwo\nlast\n"
    assert Prompts(tokenizer, "chat").ids([CHAT]) == [tokenizer("be\none\ntwo\nlast\n")["input_ids"]]


def test_the_plain_template_is_stated(bare: Any) -> None:
    said = "System: be\nUser: one\nAssistant: two\nUser: last\nAssistant:\n"
    assert Prompts(bare).text(CHAT, Faults()) == said
    assert Prompts(bare, "plain").text(CHAT, Faults()) == said


def test_plain_can_be_asked_for(tokenizer: Any) -> None:
    assert Prompts(tokenizer, "plain").text(Row("a", None, 0), Faults()) == "User: a\nAssistant:\n"


def test_a_chat_template_that_is_missing_is_refused(bare: Any) -> None:
    with pytest.raises(ConfigError, match=r"generation.template: 'chat' is asked for, but the tokenizer has no"):
        Prompts(bare, "chat").ids([CHAT])


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (16, "be\none\ntwo\nlast\n"),
        (15, "be\nlast\n"),  # the oldest turn of the user goes first, and the answer to it
        (8, "be\nlast\n"),
        (7, "be\nlas\n"),  # then the end of the text; the system message stays
        (5, "be\nl\n"),
    ],
)
def test_what_goes_first(limit: int, kept: str, tokenizer: Any) -> None:
    prompts = Prompts(tokenizer)
    found = prompts.within(CHAT, prompts.ids([CHAT])[0], limit)
    assert tokenizer.decode(found) == kept and len(found) <= limit


def test_no_room_at_all_is_said(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer)
    with pytest.raises(ConfigError, match=r"data.max_tokens: no room for a prompt: .* take 4 tokens of 4"):
        prompts.within(CHAT, prompts.ids([CHAT])[0], 4)


def test_no_rows_are_no_prompts(tokenizer: Any) -> None:
    assert Prompts(tokenizer).ids([]) == []


STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% elif (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ m['content'] }}\n{% endfor %}"
)
"""As Gemma's and Mistral's are."""


def chat(*turns: tuple[str, str], line: int | None = None) -> Row:
    place = None if line is None else (Path("a/train.jsonl"), line)
    return Row("last", None, 0, "yes", turns, place=place)


@pytest.fixture
def strict(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tokenizer, "chat_template", STRICT)
    return tokenizer


def test_every_chat_that_the_template_refuses_is_a_fault_of_its_row(strict: Any) -> None:
    rows = [
        chat(("system", "be"), line=3),
        chat(("user", "one"), ("assistant", "two"), line=4),
        chat(("user", "one"), line=5),
        chat(("user", "one")),
    ]
    with pytest.raises(DataError) as caught:
        Generation(64).encode(rows, strict)
    refuses = "the model's chat template refuses its messages"
    assert caught.value.faults == (
        f"a/train.jsonl, line 3: {refuses} (system, user): System role not supported",
        f"a/train.jsonl, line 5: {refuses} (user, user): Roles must alternate",
        f"'last': {refuses} (user, user): Roles must alternate",
    )


def test_a_shortened_chat_still_alternates(strict: Any) -> None:
    """Five turns of four tokens each and the newline: with 16 tokens only the last question has room."""
    row = chat(("user", "one"), ("assistant", "two"), ("user", "six"), ("assistant", "ten"))
    prompts = Prompts(strict)
    found = [prompts.within(row, prompts.ids([row])[0], limit) for limit in (21, 20, 12)]
    assert [strict.decode(ids) for ids in found] == ["one\ntwo\nsix\nten\nlast\n", "six\nten\nlast\n", "last\n"]


@pytest.mark.parametrize(("added", "front"), [("$A </s>", ""), ("<s> $A </s>", "<s>"), ("<s> $A </s> </s>", "<s>")])
def test_a_prompt_does_not_end_before_its_answer(added: str, front: str) -> None:
    """Tokenizers saved with an end token behind every text; the answer brings its own."""
    ends = architectures.tokenizer(added)
    encoded = Generation(64).encode([Row("where </s>", None, 0, "here")], ends)
    assert ends.decode(encoded.columns["input_ids"][0]) == f"{front}User: where </s>\nAssistant:\nhere</s>"
    assert encoded.labels == (5,)
