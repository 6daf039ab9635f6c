"""The methods of a run, built from its settings with their wrappers: server step, ranks of clients, heads."""

from collections.abc import Mapping

from fedlease.client.sum_messages import LEAST
from fedlease.config.privacy import GROUPING
from fedlease.config.settings import Settings
from fedlease.core.ranks import Ranks
from fedlease.core.server_step import ServerStep
from fedlease.core.types import Budget, ClientId
from fedlease.methods.base import Terms
from fedlease.methods.facts import steps
from fedlease.methods.fedlease_means import head_mean
from fedlease.methods.head import Head, WithHead, with_head
from fedlease.methods.ranks import WithRanks
from fedlease.methods.registry import CENTRALISED, OWN_RANKS, make_method
from fedlease.methods.server_step import WithServerStep

__all__ = ["build_method", "methods_of", "server_step_of"]


def build_method(settings: Settings, name: str, heads: Mapping[ClientId, Head]) -> WithHead:
    """Builds a method with the budget, weights, ranks and head policy of the settings."""
    warmup, rounds, lora = settings.warmup, settings.rounds, settings.lora
    private = settings.privacy.epsilon is not None
    budget = Budget(warmup.epochs, rounds, settings.train.local_epochs, warmup.as_rounds)
    terms = Terms(
        budget,
        settings.weights,
        settings.linkage,
        settings.max_experts,
        settings.min_silhouette,
        columns=lora.smallest if lora.ranks else None,
        ranks=Ranks(lora.default, lora.ranks) if lora.ranks else None,
        private=private,
        least=LEAST if settings.privacy.secure_sums else 1,
        sketch=settings.privacy.sketch,
    )
    method = make_method(name, terms, settings.of_method(name))
    # A mean of products has no unique A and B to step towards.
    if settings.server_step.rule != "none" and steps(name) and settings.of_method(name).get("average") != "product":
        method = WithServerStep(method, server_step_of(settings))
    if lora.ranks and name not in OWN_RANKS | {CENTRALISED}:
        method = WithRanks(method, lora.default, lora.ranks)
    mean = head_mean(**settings.of_method(name))
    return with_head(method, settings.head, heads, settings.weights, mean, rests=private and name in GROUPING)


def server_step_of(settings: Settings) -> ServerStep:
    """The server's step of the settings, with the default learning rate of its rule."""
    given = settings.server_step
    lr = given.lr if given.lr is not None else 1 - given.momentum if given.rule == "momentum" else 0.01
    return ServerStep(given.rule, lr, given.momentum, given.beta2, given.tau)


def methods_of(settings: Settings, heads: Mapping[ClientId, Head]) -> dict[str, WithHead]:
    """Name -> method, for the method of a run and its baselines."""
    return {name: build_method(settings, name, heads) for name in (settings.method, *settings.baselines)}
