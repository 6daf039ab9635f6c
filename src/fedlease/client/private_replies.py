"""What a client refuses under differential privacy, and what is removed from its replies.

Noise protects what is trained. Nothing else that is computed from train rows leaves the client: no losses, no choice
among candidates, no most frequent label. Test rows are never trained on; only their rounded scores leave, none by row.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedlease.client.messages import FinalScores, Finished, Reply, Request, Score, Scored, Train, Trained
from fedlease.client.private_steps import PrivacyTerms
from fedlease.core.row_noise import Amount

__all__ = ["DIGITS", "chooses", "disclosed", "passes_in", "refusal"]

DIGITS = 2
"""Decimals of a score that leaves."""


def passes_in(request: Request) -> Amount:
    """Passes that a request asks of a client."""
    if not isinstance(request, Train):
        return Amount()
    passes = sum(stage.epochs for stage in request.task.stages)
    return Amount(halves=passes) if request.task.halves else Amount(passes)


def refusal(terms: PrivacyTerms, request: Request, rows: int, spent: Amount) -> str:
    """The reason why a client refuses a request; empty where it does not.

    Args:
        terms: of the client.
        request: from the server.
        rows: the client's train rows.
        spent: steps under this method, those of the request among them.
    """
    if isinstance(request, Score) and request.rows == "valid":
        return "its validation rows are not scored: privacy.epsilon does not cover them"
    if chooses(request):
        return "it does not choose among adapters by its rows: privacy.epsilon does not cover that"
    if not isinstance(request, Train):
        return ""
    planned = terms.passes.get(request.method, Amount()).steps(rows, terms.batch_size)
    if not spent <= planned:
        return (
            f"it has spent its epsilon of {terms.epsilon:g}: {request.method} was to make {spent}, the "
            f"noise is enough for {planned}"
        )
    return ""


def chooses(request: Request) -> bool:
    """Whether a client would choose among adapters by its rows."""
    return bool(request.model.candidates)


def disclosed(reply: Reply, epsilon: float) -> Reply:
    """A reply without what noise does not protect.

    Args:
        reply: as it would be.
        epsilon: that the client has spent with the method so far.
    """
    match reply:
        case Trained():
            update = replace(reply.update, metrics={})
            return replace(
                reply, update=update, score=_round(reply.score), metrics=_rounded(reply.metrics), epsilon=epsilon
            )
        case Scored():
            return Scored(round(reply.score, DIGITS))
        case Finished(scores, private):
            return Finished(_rounded_scores(scores), private)
        case _:
            return reply


def _rounded_scores(scores: FinalScores) -> FinalScores:
    return replace(
        scores,
        metrics=_rounded(scores.metrics),
        majority=None,
        bare_base=_round(scores.bare_base),
        own_expert=_round(scores.own_expert),
        row_scores="",
        samples=(),
        confusion=(),
    )


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in metrics.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
