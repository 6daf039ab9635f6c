"""Requests that a client refuses under differential privacy, and values that are removed from its replies.

Noise protects the trained tensors. Nothing else that is computed from train rows leaves the client: no losses, no
choice among candidates, no most frequent label. Of test rows, which are never trained on, only rounded mean scores
leave, and no scores of single rows.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedlease.client.messages import FinalScores, Finished, Reply, Request, Score, Scored, Train, Trained
from fedlease.client.private_steps import PrivacyTerms
from fedlease.core.row_noise import Amount

__all__ = ["DIGITS", "chooses", "disclosed", "passes_in", "refusal"]

DIGITS = 2
"""Decimals of a score in a reply."""


def passes_in(request: Request) -> Amount:
    """Passes over rows that a request asks for."""
    if not isinstance(request, Train):
        return Amount()
    passes = sum(stage.epochs for stage in request.task.stages)
    return Amount(halves=passes) if request.task.halves else Amount(passes)


def refusal(terms: PrivacyTerms, request: Request, rows: int, spent: Amount) -> str:
    """The reason why a client refuses a request; empty if it does not.

    Args:
        terms: of the client.
        request: from the server.
        rows: number of the client's train rows.
        spent: steps under this method, including those of the request.
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
            f"it has spent its epsilon of {terms.epsilon:g}: {request.method} would make {spent}, and the noise is "
            f"enough for {planned}"
        )
    return ""


def chooses(request: Request) -> bool:
    """Whether a request makes a client choose among adapters by its rows."""
    return bool(request.model.candidates)


def disclosed(reply: Reply, epsilon: float) -> Reply:
    """Removes the values from a reply that noise does not protect.

    Args:
        reply: the full reply.
        epsilon: the client's spending so far with the method.
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
