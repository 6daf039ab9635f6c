"""Failures in a comparison: a failed variant is listed with its reason, and the others continue."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlease.config.settings import Settings
from fedlease.core.wording import counted, listed
from fedlease.errors import ConfigError, FedLeaseError, InputError, stops_everything
from fedlease.experiments.cells import plan
from fedlease.experiments.experiment import Variant
from fedlease.files import write_atomically
from fedlease.methods.facts import kind_of
from fedlease.reporting.comparison.data import Failure

__all__ = ["TRACE", "Failures", "failed_words", "failure_of"]

FEW = 3
"""Most failures that one line names with their reasons."""

TRACE = "failure.txt"
"""File in the folder of a variant with the traceback of an unexpected error."""


def failure_of(variant: Variant, seed: int | None, error: Exception) -> Failure:
    """Describes an error as a failure with a reason of one line, which names the type of an unexpected error.

    Args:
        variant: the variant that failed.
        seed: seed of the run; None if the method does not allow the settings, or no learning rate works.
        error: the error.
    """
    text = "; ".join(error.faults) if isinstance(error, InputError) else str(error)
    kind = "" if isinstance(error, FedLeaseError) else f"{type(error).__name__}: "
    return Failure(variant.method, seed, " ".join(f"{kind}{text}".split()), kind_of(variant.method))


@dataclass
class Failures:
    """The failures of a comparison so far; a later call tries failed variants again.

    Attributes:
        out: folder of the comparison.
        found: name of a variant -> its failure.
        last: the last error.
    """

    out: Path
    found: dict[str, Failure] = field(default_factory=dict)
    last: Exception | None = None

    def attempt(self, variant: Variant, seed: int | None, work: Callable[[], object]) -> None:
        """Calls ``work`` for a variant, unless that has failed before; records an error as its failure.

        Raises:
            Exception: an error that would also affect other variants, such as a full disk.
        """
        if variant.name in self.found:
            return
        trace = self.out / variant.name / TRACE
        try:
            work()
        except Exception as error:
            if stops_everything(error):
                raise
            self.found[variant.name] = failure_of(variant, seed, error)
            self.last = error
            if not isinstance(error, FedLeaseError):
                trace.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(trace, traceback.format_exc().encode())
        else:
            trace.unlink(missing_ok=True)

    def survivors(self, variants: Sequence[Variant]) -> list[Variant]:
        """The variants that have not failed.

        Raises:
            Exception: none is left; this is the last error.
        """
        left = [variant for variant in variants if variant.name not in self.found]
        if not left and self.last is not None:
            raise self.last
        return left

    def check_settings(self, settings: Settings, variants: Sequence[Variant], seed: int) -> None:
        """Records the variants whose methods do not allow the settings, such as unequal ranks."""
        for variant in variants:
            try:
                plan(settings, [variant], [seed], self.out)
            except ConfigError as error:
                self.found[variant.name] = failure_of(variant, None, error)
                self.last = error


def failed_words(content: Mapping[str, Any]) -> str:
    """Such as ``1 of 20 methods failed: a (reason)``, from the content of ``compare.json``; empty if none failed."""
    failed = content["failed"]
    if not failed:
        return ""
    reasons = [f"{name} ({failure['reason']})" for name, failure in failed.items()]
    why = listed([*failed], FEW) if len(failed) > FEW else "; ".join(reasons)
    return f"{len(failed)} of {counted(len(failed) + len(content['variants']), 'method')} failed: {why}"
