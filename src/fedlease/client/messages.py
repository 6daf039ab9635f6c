"""Requests of the server and replies of clients, the same over every transport."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedlease.client.sum_messages import Masking
from fedlease.core.choices import StopMetric
from fedlease.core.codec import serialisable
from fedlease.core.confusion import Cells
from fedlease.core.types import ClientModel, ClientTask, ClientUpdate, Tensors

__all__ = [
    "FinalScores",
    "Finish",
    "Finished",
    "Lacks",
    "Masked",
    "Refused",
    "Reply",
    "Request",
    "Score",
    "Scored",
    "Train",
    "Trained",
]


@serialisable
@dataclass(frozen=True)
class Train:
    """Asks to train and, if rounds are scored, to score the received model before that.

    Attributes:
        method: name of the method; private tensors of a client belong to one method.
        step: number of the step within the method, to which a later request can refer.
        task: what to train and what to upload.
        accepted: the last step of this client whose update was used, or None.
        keeps: whether the client should have private tensors from earlier steps.
        best: like ``accepted``, for the round to which early stopping may return; None without early stopping.
        seconds: time that the server waits for the reply; None: as long as its transport does.
        group: number of the client's group, whose updates are averaged together.
        masking: masks the update for a secure sum; None sends it unmasked.
    """

    method: str
    step: int
    task: ClientTask
    accepted: int | None = None
    keeps: bool = False
    best: int | None = None
    seconds: float | None = None
    group: int = 0
    masking: Masking | None = None

    @property
    def model(self) -> ClientModel:
        """The model of the request."""
        return self.task.model


@serialisable
@dataclass(frozen=True)
class Score:
    """Asks to score a model; other fields as in :class:`Train`.

    Attributes:
        rows: the client's rows to score on.
        metric: ``score``, the headline metric, or ``loss``, the mean loss, only on validation rows.
    """

    method: str
    model: ClientModel
    accepted: int | None = None
    keeps: bool = False
    best: int | None = None
    rows: Literal["test", "valid"] = "test"
    metric: StopMetric = "score"


@serialisable
@dataclass(frozen=True)
class Finish:
    """Asks to score the client's final model on its test rows; other fields as in :class:`Train`.

    Attributes:
        untrained: initial adapter and head, scored for comparison.
        hand_over: whether the reply should have the client's private tensors; only a client on the server's machine
            agrees to that.
    """

    method: str
    model: ClientModel
    untrained: ClientModel
    accepted: int | None = None
    keeps: bool = False
    best: int | None = None
    hand_over: bool = False


Request = Train | Score | Finish


@serialisable
@dataclass(frozen=True)
class Trained:
    """The reply to :class:`Train`.

    Attributes:
        update: for the method.
        score: headline metric of the received model on the client's test rows; None if rounds are not scored or the
            client has no test rows.
        metrics: other metrics of the received model, except the loss.
        steps: number of optimiser steps.
        train_seconds: time spent training.
        evaluate_seconds: time spent scoring and choosing among candidates.
        reused: whether the result is that of the same first step of another method.
        notes: sentences for the user, such as about lost tensors.
        epsilon: under differential privacy, the client's spending so far with this method.
        summed: number of clients whose securely summed mean the update is; 0 for the client's own update.
    """

    update: ClientUpdate
    score: float | None
    steps: int
    train_seconds: float
    evaluate_seconds: float
    reused: bool = False
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    epsilon: float | None = None
    summed: int = 0

    @property
    def seconds(self) -> float:
        """Time spent training and scoring together."""
        return self.train_seconds + self.evaluate_seconds


@serialisable
@dataclass(frozen=True)
class Scored:
    """The reply to :class:`Score`: the requested metric."""

    score: float


@serialisable
@dataclass(frozen=True)
class FinalScores:
    """Scores of a client's final personalised model on the client's own test rows.

    Attributes:
        metrics: name -> value; empty, like everything computed from rows, without test rows.
        num_test: number of test rows.
        majority: headline metric of always predicting the most frequent train label or answer.
        bare_base: headline metric of the untrained model.
        own_expert: headline metric of the own expert alone; None without routing.
        choice: index of the chosen candidate, or None.
        usage: module -> statistics about the use of experts; None without routing.
        row_scores: a number per row, with the headline metric as their mean; one character each if all are 0 or 1.
        samples: a few rows with generated answers; empty for classification.
        confusion: for classification, test rows by true and predicted label.
        notes: sentences for the user, such as about lost tensors.
    """

    metrics: Mapping[str, float]
    num_test: int
    majority: float | None = None
    bare_base: float | None = None
    own_expert: float | None = None
    choice: int | None = None
    usage: Mapping[str, Any] | None = None
    row_scores: str | Sequence[float] = ""
    samples: Sequence[Mapping[str, str]] = ()
    confusion: Cells = ()
    notes: tuple[str, ...] = ()

    def row(self, task: str) -> dict[str, Any]:
        """The client's entry under ``per_client`` in ``summary.json``.

        Args:
            task: name of the client's task in the data.
        """
        optional = {
            "majority": self.majority,
            "bare_base": self.bare_base,
            "choice": self.choice,
            "own_expert": self.own_expert,
        }
        present = {name: value for name, value in optional.items() if value is not None}
        return {**self.metrics, "num_test": self.num_test, "task": task, **present}


@serialisable
@dataclass(frozen=True)
class Finished:
    """The reply to :class:`Finish`.

    Attributes:
        scores: of the personalised model.
        private: slot -> private tensors, see :class:`~fedlease.client.store.Private`; None unless they were requested
            and may leave the client.
    """

    scores: FinalScores
    private: Mapping[str, Tensors] | None = None


@serialisable
@dataclass(frozen=True)
class Refused:
    """The reply of a client that did not fulfil a request, with the reason in one sentence."""

    reason: str


@serialisable
@dataclass(frozen=True)
class Lacks:
    """The reply of a client that lacks tensors on which the request builds; the server then sends the whole model."""


@serialisable
@dataclass(frozen=True)
class Masked:
    """The reply to :class:`Train` with masking.

    Attributes:
        trained: the reply without the tensors of its update.
        values: (numbers x width,) uint8: the masked weight, followed by the masked values times the weight.
    """

    trained: Trained
    values: Tensor


Reply = Trained | Scored | Finished | Refused | Lacks | Masked
