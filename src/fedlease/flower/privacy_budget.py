"""A ledger on a node of the differential privacy that its client has spent in all runs, since spending adds up."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from fedlease.client.messages import Train
from fedlease.config.privacy import PrivacySettings
from fedlease.core.wording import counted
from fedlease.errors import ConfigError, RulesError, RunFolderError
from fedlease.files import locked, read_file
from fedlease.flower.messages import Envelope
from fedlease.flower.policy import NodePolicy
from fedlease.storage.documents import MOST_BYTES, checked, parse_json
from fedlease.storage.run_folder import write_json

__all__ = ["LEDGER", "PrivacyBudget"]

LEDGER = "privacy_budget.json"
"""File in a node's ``state-dir``: client -> run -> [epsilon, delta] of each guarantee under which the run trained."""

ROUNDED = 1 + 1e-9
"""Tolerance for rounding, so that three runs of 0.1 are within 0.3."""

WAIT = 60.0
"""Seconds to wait for another process of the node that uses the ledger."""

log = logging.getLogger("flwr")

_Pair = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=2, max_length=2)]
_Promises = dict[str, dict[str, list[list[float]]]]
_LEDGER = TypeAdapter(dict[str, dict[str, list[_Pair]]], config=ConfigDict(strict=True))


@dataclass(frozen=True)
class PrivacyBudget:
    """The ledger of one node.

    Attributes:
        folder: the node's ``state-dir``, if it has one.
        policy: the node's rules, of which ``max-total-epsilon`` and ``max-total-delta`` bound the sums.
    """

    folder: Path | None
    policy: NodePolicy

    def admit(self, message: Envelope, client: str, privacy: PrivacySettings) -> None:
        """Checks a message of a run under differential privacy, and enters the run if the message asks for training.

        Raises:
            ConfigError: the node has no ``state-dir``.
            RulesError: see :meth:`enter`.
        """
        if self.folder is None:
            raise ConfigError(
                f"client {client!r}: its node has no state-dir, without which it would forget what it has spent of "
                "privacy.epsilon"
            )
        if isinstance(message.request, Train):
            self.enter(self.folder, client, message.run, privacy)

    def enter(self, folder: Path, client: str, run: str, privacy: PrivacySettings) -> None:
        """Enters all that a run may spend before it trains for the first time; a known run is not counted again.

        Epsilons and deltas of runs add up, even if the runs depend on each other (basic composition: Dwork and Roth,
        "The Algorithmic Foundations of Differential Privacy", 2014, theorem 3.16).

        Args:
            folder: folder of the ledger.
            client: id of the client whose rows are trained on.
            run: identity of the run.
            privacy: the run's privacy settings, with an epsilon.

        Raises:
            RulesError: the sums with this run would exceed the node's limits, or the ledger cannot be read or written.
        """
        assert privacy.epsilon is not None
        path, promise = folder / LEDGER, [privacy.epsilon, privacy.delta]
        try:
            with locked(folder, "the ledger of privacy.epsilon", WAIT, f".{LEDGER}.lock"):
                ledger = _read(path)
                runs = ledger.setdefault(client, {})
                if promise in (promises := runs.setdefault(run, [])):
                    return
                promises.append(promise)
                epsilon, delta = _sums(runs)
                if broken := [*self._beyond(epsilon, delta)]:
                    raise RulesError(broken)
                write_json(path, ledger)
        except (OSError, RunFolderError) as error:
            rule = f"{LEDGER}: what was spent before is not known: {error}"
            raise RulesError([("max-total-epsilon", rule)]) from error
        sums = client, epsilon, delta, counted(len(runs), "run")
        log.info("fedlease: %s may have spent epsilon %g at delta %g in %s, including this one", *sums)

    def _beyond(self, epsilon: float, delta: float) -> Iterator[tuple[str, str]]:
        """Rules that the sums break."""
        for name, total, most in (
            ("epsilon", epsilon, self.policy.max_total_epsilon),
            ("delta", delta, self.policy.max_total_delta),
        ):
            if most is not None and total > most * ROUNDED:
                rule = f"max-total-{name}"
                limit = f"all runs on these rows may have {most:g} ({rule}), with this one it is {total:g}"
                yield rule, f"privacy.{name}: {limit}"


def _sums(runs: dict[str, list[list[float]]]) -> tuple[float, float]:
    pairs = [pair for promises in runs.values() for pair in promises]
    return math.fsum(epsilon for epsilon, _ in pairs), math.fsum(delta for _, delta in pairs)


def _read(path: Path) -> _Promises:
    """The ledger; empty before the first run.

    Raises:
        RunFolderError: it is damaged, so that nobody knows what was spent.
    """
    try:
        blob = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        return {}
    ledger: _Promises = checked(parse_json(blob, path), _LEDGER, path)
    return ledger
