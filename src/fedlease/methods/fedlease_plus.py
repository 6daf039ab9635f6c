"""FedLEASE+, ours, on trial: the paper's second phase on a first phase that knows how sure it is.

It is FedLEASE with other settings, each of which is one of ``fedlease.*`` too, so that the share of every part in the
gain can be measured: warm-ups that tell halves of rows apart, groups by corrected similarities of the products B A
(:mod:`fedlease.core.reliability`, :mod:`fedlease.core.merging`), means of products, no routing, and unsure clients that
join the expert that comes to fit their rows.
"""

from typing import Any

from fedlease.core.choices import PLUS
from fedlease.methods import fedlease_variants
from fedlease.methods.base import Method, Terms

__all__ = ["build"]


def build(terms: Terms, **own: Any) -> Method:
    """FedLEASE+ from the settings of ``fedlease_plus.*``; see :func:`fedlease.methods.fedlease_variants.build`."""
    return fedlease_variants.build(terms, **{**PLUS, **own})
