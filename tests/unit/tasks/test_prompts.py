"""Templates, and what a prompt loses when it is too long."""

from typing import Any

import pytest

from fedlease.data.federation import Row
from fedlease.errors import ConfigError
from fedlease.model_sources import locate
from fedlease.models import load_tokenizer
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
    assert Prompts(tokenizer).text(CHAT) == "be\none\ntwo\nlast\n"
    assert Prompts(tokenizer, "chat").ids([CHAT]) == [tokenizer("be\none\ntwo\nlast\n")["input_ids"]]


def test_the_plain_template_is_stated(bare: Any) -> None:
    said = "System: be\nUser: one\nAssistant: two\nUser: last\nAssistant:\n"
    assert Prompts(bare).text(CHAT) == said
    assert Prompts(bare, "plain").text(CHAT) == said


def test_plain_can_be_asked_for(tokenizer: Any) -> None:
    assert Prompts(tokenizer, "plain").text(Row("a", None, 0)) == "User: a\nAssistant:\n"


def test_a_chat_template_that_is_missing_is_refused(bare: Any) -> None:
    with pytest.raises(ConfigError, match=r"generation.template: 'chat' is asked for, but the tokenizer has no"):
        Prompts(bare, "chat").ids([CHAT])


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (16, "be\none\ntwo\nlast\n"),
        (15, "be\ntwo\nlast\n"),  # the oldest turn goes first
        (11, "be\nlast\n"),
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
