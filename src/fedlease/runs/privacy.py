"""Differential privacy of a run: the number of passes that its methods need, and the terms that follow from it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from fedlease.client.head_inputs import head_inputs_of
from fedlease.client.messages import Reply, Request
from fedlease.client.private_replies import chooses, passes_in
from fedlease.client.private_steps import PrivacyTerms, PrivateTraining
from fedlease.client.stacked import unstackable
from fedlease.client.training import Trainer
from fedlease.config.settings import Settings
from fedlease.core.adapters import initial_adapter
from fedlease.core.codec import digest
from fedlease.core.row_noise import Amount
from fedlease.core.types import ClientId
from fedlease.core.wording import listed
from fedlease.data.federation import ClientCard, ClientData
from fedlease.errors import ConfigError
from fedlease.methods.head import Head
from fedlease.privacy.accountant import check_accountant
from fedlease.runs.building import build_method
from fedlease.runs.open import Loaded, optimiser_of
from fedlease.server.dry import DryTransport, NoCheckpoint
from fedlease.server.loop import RoundLoop
from fedlease.server.participation import Participation
from fedlease.server.transport import Channel, Transport

__all__ = ["card_of", "passes_of", "privacy_notes", "terms_of", "trainer_of"]

PLAYERS = 8
"""Number of made-up clients with which rounds are played to count passes."""

MANY = 1000
"""Number of train rows of each made-up client, enough for any method."""

LOUD = 0.5
"""Length of the noise of all steps, as a share of the longest sum of gradients, above which it is reported."""


@dataclass
class _Counting:
    """A transport that counts the passes that every client is asked for.

    Attributes:
        transport: replies to requests.
        passes: client -> passes that it is asked for.
        odd: parts of tasks that noise does not cover.
    """

    transport: Transport
    passes: dict[ClientId, Amount] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Counts the requested passes and sends the requests."""
        for client, request in requests.items():
            if chooses(request):
                self.odd.add("has clients choose among adapters by their rows")
            self.passes[client] = self.passes.get(client, Amount()) + passes_in(request)
        return self.transport.send(requests)


def passes_of(settings: Settings) -> dict[str, Amount]:
    """Method of the run -> the most passes that a client is asked for, if it takes part in every round.

    Raises:
        ConfigError: a method asks clients for something that noise does not cover.
    """
    found, faults = dict[str, Amount](), list[str]()
    for name in (settings.method, *settings.baselines):
        own = settings.of_method(name)
        count = max(PLAYERS, own.get("num_experts") or 0)
        clients = sorted(own.get("assignment") or {}) or [f"client-{number:03}" for number in range(count)]
        method = build_method(settings, name, {client: Head(("0", "1"), {}) for client in clients})
        r = settings.lora.largest
        shapes = {f"layers.{layer}.query": (r, r) for layer in range(2)}
        adapter = initial_adapter(shapes, r=r, alpha=settings.lora.alpha, dropout=0.0, seed=0)
        cards = {c: ClientCard(c, "", ("0", "1"), False, MANY, 0, 0, "") for c in clients}
        dry = DryTransport(cards, adapter, min(2, len(clients)), score_rounds=False)
        counting = _Counting(dry)
        everyone = Participation(None, 1, 1, False)
        loop = RoundLoop(name, method, Channel(counting, dry.traffic), everyone, NoCheckpoint(), (), 0)
        loop.run(adapter)
        loop.finish(lambda client, start=adapter: start)  # type: ignore[misc]
        faults += [f"method: {name} {odd}, which privacy.epsilon does not cover" for odd in sorted(counting.odd)]
        every = counting.passes.values()
        found[name] = Amount(max(passes.whole for passes in every), max(passes.halves for passes in every))
    if faults:
        raise ConfigError(faults)
    return found


def terms_of(settings: Settings, *, secret: bool) -> PrivacyTerms | None:
    """The privacy guarantee for clients' rows; None if the settings do not ask for one.

    Args:
        settings: of the run.
        secret: whether noise comes from the operating system rather than the run's seed.

    Raises:
        ConfigError: a method asks clients for something that noise does not cover, or the accountant is not installed.
    """
    given = settings.privacy
    if given.epsilon is None:
        return None
    check_accountant()
    seed = None if secret else settings.seed
    return PrivacyTerms(given.epsilon, given.delta, given.clip, settings.train.batch_size, passes_of(settings), seed)


def trainer_of(loaded: Loaded, terms: PrivacyTerms | None) -> Trainer:
    """The trainer of a run's clients.

    Raises:
        ConfigError: the model does not allow gradients of single rows.
    """
    optimiser = optimiser_of(loaded.settings)
    if terms is None:
        return Trainer(loaded.resident, optimiser)
    if why := unstackable(loaded.resident):
        raise ConfigError(f"privacy.epsilon: this model does not allow gradients of single rows: {why}")
    inputs = head_inputs_of(loaded.resident, loaded.tokenizer, loaded.settings.data.max_tokens)
    private = PrivateTraining(loaded.resident, terms, sorted(loaded.shapes), inputs)
    # Moments begin anew in every stage, so that of twelve steps, the first counts twenty times as much as the last: the
    # same noise hides more. Without momentum, all count the same.
    return Trainer(loaded.resident, replace(optimiser, clip_norm=None, momentum=0.0), private)


def privacy_notes(loaded: Loaded, cards: Mapping[ClientId, ClientCard]) -> list[str]:
    """Sentences about clients with too few rows for the settings, and about parts that noise does not cover."""
    settings, parameters = loaded.settings, sum(t.numel() for t in loaded.adapter.tensors.values())
    if (terms := terms_of(settings, secret=False)) is None:
        return []
    notes, rows = list[str](), {client: card.weight for client, card in cards.items()}
    loose = [client for client, count in sorted(rows.items()) if count and terms.delta * count >= 1]
    if loose:
        notes.append(
            f"privacy.delta = {terms.delta:g} guarantees nothing to {listed(loose)}: set it well below one divided by "
            "the number of train rows"
        )
    shares = {c: loudness(terms, count, parameters) for c, count in sorted(rows.items()) if count}
    if loud := [client for client, share in shares.items() if share > LOUD]:
        most = max(shares.values())
        notes.append(
            f"few rows for epsilon {terms.epsilon:g}: the noise of {listed(loud)} is up to {most:.1f} times as long as "
            "the longest possible sum of gradients; more rows, a larger epsilon, a smaller lora.r or "
            "lora.last_layers = 1 help"
        )
    if settings.data.labels is None and settings.data.source == "folder" and any(c.labels for c in cards.values()):
        notes.append("label lists are read from rows and sent without noise; set data.labels to avoid that")
    return notes


def card_of(client: ClientData, settings: Settings) -> ClientCard:
    """The card of a client; under differential privacy, its fingerprint does not depend on its rows."""
    card = client.card()
    if settings.privacy.epsilon is None:
        return card
    # With a fingerprint of the rows, a guess of a row could be confirmed.
    return replace(card, fingerprint=digest(f"rows of {client.id}".encode()))


def loudness(terms: PrivacyTerms, rows: int, parameters: int) -> float:
    """Expected length of the noise of all steps over all parameters, as a share of the longest sum of gradients.

    It is about 5 sqrt(parameters) / (epsilon rows) for any batches and passes, since sigma depends on them.
    """
    steps = terms.planned(rows)
    halves = 2 * steps.halves  # equally many on either half
    most = min(terms.batch_size, rows) * steps.whole + min(terms.batch_size, max(1, rows // 2)) * halves
    return terms.noise(rows) * math.sqrt(parameters * (steps.whole + halves)) / most
