"""The outcome of a run as typed values: the ``verdict`` of its ``summary.json``."""

from typing import Literal

from pydantic import Field

from fedlease.storage.documents import ClientName, Content, Count, Finite

__all__ = ["Advice", "ClientVerdict", "Effect", "Gain", "Groups", "NextStep", "TaskVerdict", "Verdict"]

Effect = Literal["helps", "costs", "unclear"]
"""Position of a gain's interval: above zero, below it, or around it."""


class Gain(Content):
    """The gain of a score over that of ``local``.

    Attributes:
        difference: difference of the scores, in [-1, 1].
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        paired: whether the interval pairs the test rows of both models; otherwise it is that of two proportions.
    """

    difference: Finite
    low: Finite
    high: Finite
    paired: bool

    @property
    def effect(self) -> Effect:
        """The effect of joining, by the interval."""
        return "helps" if self.low > 0 else "costs" if self.high < 0 else "unclear"


class ClientVerdict(Content):
    """The outcome for one client.

    Attributes:
        task: what its rows are about.
        score: headline metric.
        metrics: key -> value of further metrics, such as ``macro_f1`` and ``mcc``.
        never_predicted: labels in its test rows that are never predicted.
        local: headline metric of ``local``; None without this baseline.
        gain: gain over ``local``.
        effect: effect of joining, by the interval of ``gain``.
    """

    task: str
    score: Finite
    metrics: dict[str, Finite] = Field(default_factory=dict)
    never_predicted: list[str] = Field(default_factory=list)
    local: Finite | None = None
    gain: Gain | None = None
    effect: Effect | None = None


class TaskVerdict(Content):
    """The mean gain over a task's clients that both scored, and the numbers of clients by effect."""

    gain: Gain
    helps: Count
    costs: Count
    unclear: Count


class Groups(Content):
    """The decision on which clients share an expert.

    Attributes:
        members: clients by expert, from expert 0 on.
        certainty: ``sure``, or ``close`` if another grouping is nearly as good.
        close: clients that another grouping fits as well.
        not_learnt: clients that had learnt too little to be compared with others.
        text: a sentence that summarises the groups.
    """

    members: list[list[ClientName]]
    certainty: Literal["sure", "close"]
    close: list[ClientName] = Field(default_factory=list)
    not_learnt: list[ClientName] = Field(default_factory=list)
    text: str


class NextStep(Content):
    """The suggested next step; in ``command``, if there is one, DIR stands for the run folder."""

    text: str
    command: str = ""


class Advice(Content):
    """One warning.

    Attributes:
        level: ``act`` if results are missing or at risk, ``look`` if a decision was close, ``note`` otherwise.
        title: the warning in a few words.
        text: its details.
        todo: what to do about it.
    """

    level: Literal["act", "look", "note"]
    title: str
    text: str
    todo: str


class Verdict(Content):
    """The outcome of a run.

    Attributes:
        alarms: reasons why scores are misleading, such as labels that are never predicted; shown before all else.
        sentences: the result in plain words, the most important sentence first.
        against: the baseline of gains; None if the run does not have it.
        metric: key of the metric of gains: the headline metric, or accuracy if that is no mean over rows.
        gain: mean gain over the clients that both scored.
        clients: client -> its outcome.
        tasks: task -> its outcome; {} if there is only one task.
        groups: the groups of clients; None for a method without groups.
        next_step: the suggested next step.
        warnings: advice on everything unusual, most urgent first.
    """

    alarms: list[str] = Field(default_factory=list)
    sentences: list[str]
    against: Literal["local"] | None = None
    metric: str = ""
    gain: Gain | None = None
    clients: dict[ClientName, ClientVerdict] = Field(default_factory=dict)
    tasks: dict[str, TaskVerdict] = Field(default_factory=dict)
    groups: Groups | None = None
    next_step: NextStep
    warnings: list[Advice] = Field(default_factory=list)

    def having(self, effect: Effect) -> list[str]:
        """Clients on which joining has this effect, largest difference first."""
        gains = {
            client: row.gain.difference for client, row in self.clients.items() if row.gain and row.effect == effect
        }
        return sorted(gains, key=lambda client: -abs(gains[client]))
