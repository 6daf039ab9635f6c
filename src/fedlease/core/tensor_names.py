"""Names of tensors, which do not depend on PEFT.

<module path>/A/<expert>    LoRA A, (r, in)
<module path>/B/<expert>    LoRA B, (out, r)
<module path>/dA/<expert>   mean gradient of A over the batches of a task; likewise dB and dG
<module path>/G             router, (2M - 1, in) for the mixer top_m, (M, in) for softmax, (1,) for scalar;
                            the core between B and A: (r, r) for the mixer core, (M, 1 + r r) for heads,
                            (r,) for diagonal; differences to the frozen weights, (k,), for sparse
head/<parameter path>       parameter of the task head
anchor/mean                 mean direction of a client's train rows, (hidden,), for the mixer instance
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

__all__ = ["ANCHOR", "HEAD", "TensorName", "Tensors", "head_names", "second_half"]

Tensors = Mapping[str, Tensor]

HEAD = "head"
ANCHOR = "anchor/mean"

REMEMBERED = 512
"""Characters of the longest name whose parse is cached, so that a sender of long names cannot fill the memory."""


class TensorName(NamedTuple):
    """A parsed tensor name.

    Attributes:
        module: dotted path of the adapted module, ``"head"``, or ``"anchor"``.
        kind: ``"A"``, ``"B"`` or ``"G"``, each with a leading ``d`` for its gradient; the parameter path of a head; or
            ``"mean"``.
        expert: expert id of an A or B or of its gradient, else None.
    """

    module: str
    kind: str
    expert: int | None = None

    def __str__(self) -> str:
        return "/".join(str(part) for part in self if part is not None)

    @classmethod
    def parse(cls, name: str) -> "TensorName":
        """Parses a name.

        Raises:
            ValueError: the name has none of the forms.
        """
        return (_parsed if len(name) <= REMEMBERED else _parsed.__wrapped__)(name)

    @property
    def gradient(self) -> "TensorName":
        """Name of this tensor's mean gradient."""
        return self._replace(kind=f"d{self.kind}")


# A round reads the same few thousand names once per client and wrapper.
@lru_cache(maxsize=2**14)
def _parsed(name: str) -> TensorName:
    parts = name.split("/")
    if len(parts) == 2 and (parts[0] == HEAD or parts[1] in ("G", "dG") or name == ANCHOR):
        return TensorName(parts[0], parts[1])
    if len(parts) == 3 and parts[1] in ("A", "B", "dA", "dB") and parts[2].isdecimal():
        return TensorName(parts[0], parts[1], int(parts[2]))
    raise ValueError(f"{name!r} is none of <module>/A/<e>, <module>/B/<e>, <module>/G, head/<name>, {ANCHOR}")


def second_half(tensors: Tensors) -> dict[str, Tensor]:
    """The B of a single adapter, renamed to the second half's part of B in an upload."""
    parsed = {TensorName.parse(name): tensor for name, tensor in tensors.items()}
    return {str(name._replace(expert=1)): tensor for name, tensor in parsed.items() if name[1:] == ("B", 0)}


def head_names(names: Mapping[str, object] | frozenset[str]) -> frozenset[str]:
    """The names among ``names`` that belong to the task head."""
    return frozenset(name for name in names if name.startswith(f"{HEAD}/"))
