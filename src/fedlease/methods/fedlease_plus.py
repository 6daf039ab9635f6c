"""FedLEASE+ (our own, experimental): FedLEASE with a first phase that measures how reliable its warm-ups are.

It is FedLEASE with other settings, each also available as ``fedlease.*``, so that the gain of every part can be
measured: warm-ups on two halves of the rows; groups by corrected similarities of the products B A
(:mod:`fedlease.core.reliability`, :mod:`fedlease.core.merging`); means of products; no routing; and unsure clients that
later join an expert that fits their rows.
"""

from typing import Any

from fedlease.core.choices import PLUS
from fedlease.methods import fedlease_variants
from fedlease.methods.base import Method, Terms

__all__ = ["build"]


def build(terms: Terms, **own: Any) -> Method:
    """FedLEASE+ from the settings of ``fedlease_plus.*``; see :func:`fedlease.methods.fedlease_variants.build`."""
    return fedlease_variants.build(terms, **{**PLUS, **own})
