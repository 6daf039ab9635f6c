"""The outcome of a run in a few typed values: the ``verdict`` of its ``summary.json``."""

from typing import Literal

from pydantic import Field

from fedlease.storage.documents import ClientName, Content, Count, Finite

__all__ = ["Advice", "ClientVerdict", "Effect", "Gain", "Groups", "NextStep", "TaskVerdict", "Verdict"]

Effect = Literal["helps", "costs", "unclear"]
"""Position of a gain's interval: above zero, below it, or around it."""


class Gain(Content):
    """The gain of a score over that of ``local``.

    Attributes:
        difference: in [-1, 1].
        low: the lower end of the 95 % interval.
        high: its upper end.
        paired: whether the interval is over the same test rows of both, or of two proportions.
    """

    difference: Finite
    low: Finite
    high: Finite
    paired: bool

    @property
    def effect(self) -> Effect:
        """The effect of joining, as far as the test rows tell."""
        return "helps" if self.low > 0 else "costs" if self.high < 0 else "unclear"


class ClientVerdict(Content):
    """The outcome for one client.

    Attributes:
        task: what its rows are about.
        score: headline metric.
        metrics: key -> the further metrics, such as ``macro_f1`` and ``mcc``.
        never_predicted: labels that some of its test rows have and that are predicted for none.
        local: headline metric of ``local``; None without.
        gain: over ``local``.
        effect: of joining, by the interval of ``gain``.
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
        certainty: ``sure``, or ``close`` where another grouping is nearly as good.
        close: clients that another grouping fits as well.
        not_learnt: clients that had learnt too little to be compared with others.
        text: the same as a sentence.
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
        level: ``act`` where results are missing or at risk, ``look`` where a decision was close, ``note`` otherwise.
        title: what is the case, in a few words.
        text: the particulars.
        todo: what to do about it.
    """

    level: Literal["act", "look", "note"]
    title: str
    text: str
    todo: str


class Verdict(Content):
    """The outcome of a run.

    Attributes:
        alarms: what makes scores misleading, such as labels that are never predicted; stands before all else.
        sentences: the result in plain words, the most important one first.
        against: the baseline that gains are over; None where the run has none.
        metric: key of the metric that gains are in: the headline, or the accuracy where that is none of single rows.
        gain: mean over the clients that both scored.
        clients: by client.
        tasks: by task; {} where there is one task.
        groups: None for a method that makes none.
        next_step: what to do.
        warnings: everything unusual, the urgent ones first.
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
        """Clients on which joining has this effect, the largest difference first."""
        gains = {
            client: row.gain.difference for client, row in self.clients.items() if row.gain and row.effect == effect
        }
        return sorted(gains, key=lambda client: -abs(gains[client]))
