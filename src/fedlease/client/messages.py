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
    """Do a task, and score the received model before it where rounds are scored.

    Attributes:
        method: name of the method; a client's private tensors belong to one.
        step: number of the step within the method, by which a later request says that the update was used.
        task: what to train and what to upload.
        accepted: the last step of this client whose update was used, or None.
        keeps: whether the client should have private tensors from earlier steps.
        best: as ``accepted``, in the round that early stopping may come back to; None without it.
        seconds: that the server waits for the reply; None: as long as its transport does.
        group: of the client, as the method has it: updates of one are averaged together.
        masking: of the update, which then leaves masked alone; None: it leaves as it is.
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
        """The model that travels with the request."""
        return self.task.model


@serialisable
@dataclass(frozen=True)
class Score:
    """Score a model; the other fields as in :class:`Train`.

    Attributes:
        rows: which of the client's rows.
        metric: ``score``, the headline metric, or the mean ``loss``, which is of validation rows alone.
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
    """Score the client's final model by the evaluation contract; the other fields as in :class:`Train`.

    Attributes:
        untrained: initial adapter and head, scored for comparison.
        hand_over: whether the reply should hold the client's private tensors; only a client that shares its machine
            with the server agrees to that.
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
        metrics: what was measured with it, by name, but for the loss.
        steps: optimiser steps.
        train_seconds: time spent training.
        evaluate_seconds: time spent scoring and choosing among candidates.
        reused: whether another method had done the same first step already.
        notes: plain sentences, such as what the client has lost.
        epsilon: under differential privacy, what the client has spent of it with this method so far.
        summed: clients whose mean the update is, of which no single one was seen; 0: it is the client's own.
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
        """Seconds of training and scoring together."""
        return self.train_seconds + self.evaluate_seconds


@serialisable
@dataclass(frozen=True)
class Scored:
    """The reply to :class:`Score`: the metric that was asked for."""

    score: float


@serialisable
@dataclass(frozen=True)
class FinalScores:
    """How a client's personalised model does on the client's own test rows at the end.

    Attributes:
        metrics: name -> mean over the rows; empty, like everything derived from rows, without test rows.
        num_test: number of test rows.
        majority: headline metric of always giving the most frequent train label or answer.
        bare_base: headline metric of the untrained model.
        own_expert: headline metric of the own expert alone; None without routing.
        choice: index of the chosen candidate, or None.
        usage: module -> how experts were used; None without routing.
        row_scores: a number per row, whose mean is the headline metric: one character each where all are 0 or 1.
        samples: a few rows with the generated answers; empty for classification.
        confusion: of classification, the test rows by true and predicted label.
        notes: plain sentences, such as what the client has lost.
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
        private: slot -> private tensors, see :class:`~fedlease.client.store.Private`; None unless they were asked for
            and may leave.
    """

    scores: FinalScores
    private: Mapping[str, Tensors] | None = None


@serialisable
@dataclass(frozen=True)
class Refused:
    """The reply of a client that did not do what it was asked, in one sentence."""

    reason: str


@serialisable
@dataclass(frozen=True)
class Lacks:
    """The reply of a client that has not what the request builds on; it is sent the same once more, whole."""


@serialisable
@dataclass(frozen=True)
class Masked:
    """The reply to :class:`Train` with a masking.

    Attributes:
        trained: the reply, its update without tensors.
        values: (numbers x width,) uint8, masked: the weight, then the update's values times the weight.
    """

    trained: Trained
    values: Tensor


Reply = Trained | Scored | Finished | Refused | Lacks | Masked
