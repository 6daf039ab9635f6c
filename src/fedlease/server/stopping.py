"""Early stopping: models are compared on the clients' validation rows, and the best round is kept."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fedlease.client.messages import Reply, Scored
from fedlease.core.choices import StopMetric
from fedlease.core.types import ClientId, ClientModel
from fedlease.data.federation import ClientCard
from fedlease.methods.base import Method, State
from fedlease.server.ledger import Slots
from fedlease.server.step import Step
from fedlease.storage.saved import Best

__all__ = ["EarlyStopping"]


class ScoreModels(Protocol):
    """Function that lets clients score models; ``fields`` are those of :class:`~fedlease.client.messages.Score`."""

    def __call__(self, models: Mapping[ClientId, ClientModel], **fields: Any) -> Iterable[tuple[ClientId, Reply]]: ...


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a method after a number of rounds without improvement.

    Attributes:
        patience: number of rounds without improvement after which the method ends; None disables early stopping.
        min_delta: smallest difference that counts as an improvement.
        metric: ``score``, the headline metric, or ``loss``; both are plain means over clients with validation rows.
    """

    patience: int | None = None
    min_delta: float = 0.0
    metric: StopMetric = "score"

    def compare(
        self,
        method: Method,
        step: Step,
        after: State,
        score: ScoreModels,
        cards: Mapping[ClientId, ClientCard],
        private: Slots,
        best: Best | None,
    ) -> Best | None:
        """The best round so far. If the step ended a round, its models are scored, and the step records the result.

        Two rounds are compared over the clients that have answered in both.

        Args:
            method: with its head policy.
            step: the last step.
            after: the method's state after it.
            score: lets clients score models.
            cards: client -> its card.
            private: private tensors of the clients that belong to the state, or the record of them.
            best: the best round before.
        """
        if self.patience is None or after.round == step.state.round:
            return best
        begun = time.perf_counter()
        asked = [client for client in sorted(after.clients) if cards[client].valid_rows]
        replies = score({client: method.model(after, client) for client in asked}, rows="valid", metric=self.metric)
        values = {client: reply.score for client, reply in replies if isinstance(reply, Scored)}
        found = {client: values[client] for client in asked if client in values}
        if not found:
            return best
        value = sum(found.values()) / len(found)
        if best is None or self._gain(found, best.clients or dict.fromkeys(found, best.value)) > self.min_delta:
            best = Best(step.number, value, after, private, clients=found)
        else:
            best = replace(best, waited=best.waited + 1)
        step.valid = {"metric": self.metric, "mean": value, "clients": found, "best_round": best.round}
        step.seconds["evaluate"] += time.perf_counter() - begun
        return best

    def ends(self, best: Best | None) -> bool:
        """Whether the method ends now."""
        return best is not None and self.patience is not None and best.waited >= self.patience

    def _gain(self, found: Mapping[ClientId, float], best: Mapping[ClientId, float]) -> float:
        """The improvement of the mean over the clients in both rounds; 0 if there are none."""
        both = [client for client in found if client in best]
        now, then = (sum(values[client] for client in both) / max(len(both), 1) for values in (found, best))
        return then - now if self.metric == "loss" else now - then
