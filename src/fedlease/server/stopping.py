"""When rounds no longer help: models compared on the clients' validation rows, and the best round kept."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedlease.client.worker import ClientWorker
from fedlease.core.choices import StopMetric
from fedlease.core.types import ClientId
from fedlease.methods.base import Method, State
from fedlease.server.ledger import Slots
from fedlease.server.step import Step
from fedlease.storage.saved import Best

__all__ = ["EarlyStopping"]


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a method once so many rounds have brought nothing.

    Attributes:
        patience: rounds without a better value that end it; None makes every round and compares nothing.
        min_delta: how much better counts.
        metric: ``score``, the headline metric, or ``loss``; the plain mean over clients with validation rows.
    """

    patience: int | None = None
    min_delta: float = 0.0
    metric: StopMetric = "score"

    def compare(
        self,
        method: Method,
        step: Step,
        after: State,
        workers: Mapping[ClientId, ClientWorker] | None,
        private: Slots,
        best: Best | None,
    ) -> Best | None:
        """The best round so far; where the step ended one, its models are looked at, and the step records the result.

        Args:
            method: with its head policy.
            step: the last one.
            after: the method's state after it.
            workers: the clients, with the private tensors that belong to it; None where they are on other machines.
            private: those tensors.
            best: the best round before.
        """
        if self.patience is None or workers is None or after.round == step.state.round:
            return best
        begun = time.perf_counter()
        found = {
            client: workers[client].validate(method.model(after, client), self.metric)
            for client in sorted(after.clients)
            if workers[client].client.valid
        }
        if not found:
            return best
        value = sum(found.values()) / len(found)
        if best is None or self._gain(value, best.value) > self.min_delta:
            best = Best(step.number, value, after, private)
        else:
            best = replace(best, waited=best.waited + 1)
        step.valid = {"metric": self.metric, "mean": value, "clients": found, "best_round": best.round}
        step.seconds["evaluate"] += time.perf_counter() - begun
        return best

    def ends(self, best: Best | None) -> bool:
        """Whether no further round is made."""
        return best is not None and self.patience is not None and best.waited >= self.patience

    def _gain(self, value: float, best: float) -> float:
        return best - value if self.metric == "loss" else value - best
