"""Prompts as token ids, by the tokenizer's chat template or a plain one, cut if they are too long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from fedlease.config.choices import Template
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.errors import ConfigError
from fedlease.tasks.base import add_row_fault

__all__ = ["Prompts", "plain_template", "streamer", "until"]

NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def plain_template(tokenizer: Any) -> str:
    """The plain template as a chat template, for servers that need one.

    It writes the beginning token itself if the tokenizer puts one before a text.
    """
    ids = tokenizer("a")["input_ids"]
    begin = "{{ bos_token }}" if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else ""
    line = "{{ " + repr(NAMES) + "[message['role']] }}: {{ message['content'] }}\n"
    end = "{% if add_generation_prompt %}" + NAMES["assistant"] + ":\n{% endif %}"
    return begin + "{% for message in messages %}" + line + "{% endfor %}" + end


@dataclass(frozen=True)
class Prompts:
    """Turns rows into prompts for one tokenizer.

    The plain template is one line per message, ``User: <text>``, and ends with the line ``Assistant:``.

    Attributes:
        tokenizer: the base model's.
        template: ``chat``, ``plain``, or ``auto``, which is ``chat`` if the tokenizer has a template.
    """

    tokenizer: Any
    template: Template = "auto"

    @property
    def chat(self) -> bool:
        """Whether the tokenizer's own template is used.

        Raises:
            ConfigError: the setting is ``chat``, but the tokenizer has no template.
        """
        has = bool(getattr(self.tokenizer, "chat_template", None))
        if self.template == "chat" and not has:
            raise ConfigError("generation.template: 'chat' is asked for, but the tokenizer has no chat template")
        return has if self.template == "auto" else self.template == "chat"

    def text(self, row: Row, faults: Faults) -> str:
        """The text of a prompt; messages that the template refuses become a fault."""
        messages = [*row.turns, (row.role, row.text)]
        if not self.chat:
            lines = [f"{NAMES[role]}: {content}\n" for role, content in messages]
            return "".join(lines) + f"{NAMES['assistant']}:\n"
        chat = [{"role": role, "content": content} for role, content in messages]
        try:
            written: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            roles = ", ".join(role for role, _ in messages)
            add_row_fault(faults, row, f"the model's chat template refuses its messages ({roles}): {reason}")
            return ""
        return written

    def ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of whole prompts, one list per row.

        Raises:
            DataError: the chat template refuses rows; the message names file and line of each.
        """
        if not rows:
            return []
        faults = Faults()
        texts = [self.text(row, faults) for row in rows]
        faults.check()
        # A chat template writes the tokens at the beginning of a text itself.
        encoding = self.tokenizer(texts, add_special_tokens=not self.chat, padding=False, verbose=False)
        behind = 0 if self.chat else self._behind()
        return [list(ids[: len(ids) - behind]) for ids in encoding["input_ids"]]

    def _behind(self) -> int:
        """Number of tokens that the tokenizer appends to a text, such as its end token; answers come before them."""
        bare, whole = (self.tokenizer("a", add_special_tokens=more)["input_ids"] for more in (False, True))
        starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
        start = next(starts, None) if bare else None
        return 0 if start is None else len(whole) - len(bare) - start

    def within(self, row: Row, ids: list[int], limit: int) -> list[int]:
        """Shortens a prompt to at most ``limit`` tokens: first by its oldest turns, then by the end of its text.

        A user's turn is removed with the answers to it, so that the rest begins with the user, as templates require.
        The text that the template adds is never cut.

        Raises:
            ConfigError: the template and the system message alone are longer.
            DataError: the template refuses the rest.
        """
        while len(ids) > limit:
            oldest = next((i for i, (role, _) in enumerate(row.turns) if role != "system"), None)
            if oldest is not None:
                users = (i for i, (role, _) in enumerate(row.turns) if role == "user" and i > oldest)
                row = replace(row, turns=row.turns[:oldest] + row.turns[next(users, len(row.turns)) :])
            else:
                words = self.tokenizer(row.text, add_special_tokens=False)["input_ids"]
                kept = len(words) - (len(ids) - limit)
                # Decoding and encoding may add a token, but at least one is removed, so that this ends.
                shorter = self.tokenizer.decode(words[: max(kept, 0)]).rstrip() if words else ""
                if not row.text or kept <= 0 or len(shorter) >= len(row.text):
                    raise ConfigError(
                        f"data.max_tokens: no room for a prompt: the template and the system message alone take "
                        f"{len(ids) - len(words)} tokens of {limit}"
                    )
                row = replace(row, text=shorter)
            ids = self.ids([row])[0]
        return ids


def streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """A streamer for ``generate`` that passes on text, without the prompt."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def until(text: str, stop: Sequence[str]) -> str:
    """The text before the first of some endings."""
    for ending in stop:
        text = text.split(ending, 1)[0]
    return text
