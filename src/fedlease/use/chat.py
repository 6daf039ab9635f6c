"""Conversations with a client's language model on the terminal."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from fedlease.core.types import ClientId
from fedlease.core.wording import JOINERS, printable
from fedlease.data.federation import Row
from fedlease.errors import ConfigError
from fedlease.tasks.base import WritingTask
from fedlease.use.open_run import OpenRun

__all__ = ["Chat", "talk"]

OnText = Callable[[str], None]
"""Receives an answer piece by piece."""


class Chat:
    """A conversation with one client's model; decoding is greedy, so that the same messages get the same answers.

    The oldest messages are left out of the prompt when it exceeds the model's length.

    Args:
        run: opened run folder of a run with ``task: generation``.
        client: id of the client whose model replies.
        system: content of a system message, or None.
        max_new_tokens: most tokens of an answer; None takes the run's limit.
        remember: whether earlier messages are part of the prompt.

    Attributes:
        turns: (role, content) of all messages so far.

    Raises:
        ConfigError: the run has no such client, or another task.
    """

    def __init__(
        self,
        run: OpenRun,
        client: ClientId,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        remember: bool = True,
    ) -> None:
        task = run.task
        if not isinstance(task, WritingTask):
            raise ConfigError(f"task: {run.out} is a run of {run.settings.task!r}, there is nobody to talk to")
        self.run = run
        self._system: tuple[tuple[str, str], ...] = (("system", system),) if system else ()
        self._task: WritingTask = replace(cast(Any, task), max_new_tokens=max_new_tokens or task.max_new_tokens)
        self._remember = remember
        self.turns: tuple[tuple[str, str], ...] = self._system
        run.load(client)

    def reset(self) -> None:
        """Starts over, with only the system message."""
        self.turns = self._system

    def reply(self, text: str, on_text: OnText | None = None) -> str:
        """Answers a message.

        Args:
            text: the message, not empty.
            on_text: receives the answer piece by piece while it is generated.
        """
        row = Row(text, None, 0, turns=self.turns)
        rows = self._task.encode([row], self.run.tokenizer)
        answer = self._task.write(self.run.resident, rows, self.run.threads, on_text=on_text)[0]
        if self._remember:
            self.turns = (*self.turns, ("user", text), ("assistant", answer))
        return answer


def talk(chat: Chat) -> None:
    """Answers lines of standard input until it ends or a line is ``/quit``; prints a prompt only in a terminal."""
    typed = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            if typed:
                print()
            return
        if line == "/quit":
            return
        if line == "/reset":
            chat.reset()
        elif line:
            chat.reply(line, lambda piece: print(printable(piece, keep=JOINERS + "\n"), end="", flush=True))
            print(flush=True)
