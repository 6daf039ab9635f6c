"""Facts about every method, known without importing it: for lists, and for settings that only some methods allow."""

from dataclasses import dataclass

from fedlease.core.choices import Kind
from fedlease.methods.registry import CENTRALISED

__all__ = ["FACTS", "Facts", "kind_of", "steps", "sums"]


@dataclass(frozen=True)
class Facts:
    """Facts about a method. They leave out classifier heads, for which one setting applies to all methods.

    Attributes:
        year: of first publication, preprints included; None for our own and unpublished methods.
        sends: tensors that a client sends in a round.
        keeps: tensors that it trains and does not send.
        steps: whether the server may step towards the method's means (``server_step``).
        kind: see :data:`fedlease.core.choices.Kind`.
        sums: whether, after the warm-up, the server needs only the weighted mean of every group, so that updates may be
            summed securely (``privacy.secure_sums``); settings of the method may rule that out.
    """

    year: int | None
    sends: str
    keeps: str = "nothing"
    steps: bool = True
    kind: Kind = "one for all"
    sums: bool = False


FACTS: dict[str, Facts] = {
    CENTRALISED: Facts(None, "its rows", steps=False, kind="not federated"),
    "fed-sb": Facts(2025, "a core of r x r per module; A and B once, before", sums=True),
    "fedalt": Facts(2025, "its own A and B", "mixers", steps=False, kind="partly own"),
    "feddpa": Facts(2024, "the global A and B", "a local A and B", steps=True, kind="partly own", sums=True),
    "fedex-lora": Facts(2024, "A and B", steps=False),
    "fedit": Facts(2023, "A and B", sums=True),
    "fedlease": Facts(2025, "A, B and the router of its expert", kind="groups", sums=True),
    "fedlease-plus": Facts(None, "A and B of its expert", kind="groups", sums=True),
    "fedmomentum": Facts(2026, "A and B", steps=False),
    "fedprox": Facts(2018, "A and B", sums=True),
    "fedrora": Facts(2026, "A, B and a diagonal of its rank", steps=False, kind="partly own"),
    "fedrot-lora": Facts(2026, "A and B"),
    "fedsa-lora": Facts(2024, "A", "B", kind="partly own", sums=True),
    "fedsvd": Facts(2025, "B", steps=False, sums=True),
    "fedtreelora": Facts(2026, "A and B", "a scalar per module", kind="groups"),
    "ffa-lora": Facts(2024, "B", sums=True),
    "flexlora": Facts(2024, "A and B", steps=False),
    "flora": Facts(2024, "A and B", steps=False),
    "hetlora": Facts(2024, "A and B of its rank"),
    "hilora": Facts(2026, "A and B of the root, then of its cluster", "A and B of a leaf", kind="groups"),
    "ifca": Facts(2020, "A and B of the adapter it chose", kind="groups"),
    "local": Facts(None, "nothing", "A and B", steps=False, kind="not federated", sums=True),
    "ravan": Facts(2025, "cores of r x r and scales, several per module"),
    "rolora": Facts(2024, "B in odd rounds, A in even ones", sums=True),
    "scaffold": Facts(2019, "A and B, and their mean gradients"),
    "slora": Facts(2023, "sparse differences to the weights; later A and B", steps=False, sums=True),
}
"""Name -> facts, for every method of this package."""


def steps(name: str) -> bool:
    """Whether the server may step towards a method's means; False for methods of other packages."""
    return name in FACTS and FACTS[name].steps


def sums(name: str) -> bool:
    """Whether a method's updates may be summed securely; False for methods of other packages."""
    return name in FACTS and FACTS[name].sums


def kind_of(name: str) -> Kind:
    """The kind of a method; ``added`` for methods of other packages."""
    return FACTS[name].kind if name in FACTS else "added"
