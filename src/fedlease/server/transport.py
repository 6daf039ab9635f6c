"""The clients of a run as the round loop sees them, wherever they are."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from fedlease.client.messages import FinalScores, Trained
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors, head_names
from fedlease.errors import UpdateRefusedError
from fedlease.server.events import Listener

__all__ = ["Fleet", "Outcome", "count_bytes"]

Outcome = Trained | UpdateRefusedError
"""What asking a client came to."""


class Fleet(Protocol):
    """Clients that can be given work. What they hold stays theirs."""

    def rows(self) -> Mapping[ClientId, int]:
        """Client -> train rows that count in means, of all that take part.

        A client with none of them learns nothing: it is not asked to train, and is scored with what a method has for
        clients that it does not know.
        """

    def work(
        self, method: str, step: int, tasks: Mapping[ClientId, ClientTask], tell: Listener
    ) -> Iterator[tuple[ClientId, Outcome]]:
        """Gives every client its task; one outcome each, as they come in.

        Args:
            method: name.
            step: number of the step, by which :meth:`accept` refers to what was uploaded.
            tasks: client -> task.
            tell: receives progress, where there is any to be seen.
        """

    def accept(self, step: int, tasks: Mapping[ClientId, ClientTask], models: Mapping[ClientId, ClientModel]) -> None:
        """The updates of these clients in this step were used, so what they trained and kept holds.

        Args:
            step: as given to :meth:`work`.
            tasks: client -> the task whose update was used.
            models: client -> what it is evaluated with from now on; what is kept for other shapes may go.
        """

    def score(self, models: Mapping[ClientId, ClientModel]) -> Mapping[ClientId, float]:
        """Client -> headline metric of a model on its own test rows, of those that have any and answer."""

    def finish(
        self, models: Mapping[ClientId, ClientModel], untrained: Mapping[ClientId, ClientModel]
    ) -> Mapping[ClientId, FinalScores]:
        """Client -> final scores.

        Args:
            models: client -> personalised model.
            untrained: client -> initial adapter and head.
        """

    def unscored(self) -> Mapping[ClientId, str]:
        """Why clients have no score, of those that were asked for one last and have test rows."""

    def count(self, task: ClientTask, client: ClientId, totals: dict[str, float]) -> None:
        """Adds the bytes that a task moves."""

    def private(self) -> Mapping[ClientId, Mapping[str, Tensors]]:
        """What the checkpoint has to keep for clients; empty where they keep it themselves."""

    def restore(self, private: Mapping[ClientId, Mapping[str, Tensors]]) -> None:
        """Gives back what :meth:`private` gave."""

    def newcomers(self) -> Mapping[ClientId, int]:
        """Client -> train rows that count, of clients that have come since this was last asked."""


def count_bytes(task: ClientTask, totals: dict[str, float]) -> None:
    """Adds what a task moves: down all but private tensors, every candidate; up what is uploaded; heads apart."""
    heads = head_names(task.model.tensors)
    # The model's own tensors are one of the candidates.
    for candidate in task.model.candidates[1:]:
        totals["bytes_down"] += sum(tensor.numel() * tensor.element_size() for tensor in candidate.values())
    for direction, names in (("down", task.model.tensors.keys() - task.private), ("up", task.upload)):
        for name in names:
            tensor = task.model.tensors[name]
            prefix = "head_" if name in heads else ""
            totals[f"{prefix}bytes_{direction}"] += tensor.numel() * tensor.element_size()
