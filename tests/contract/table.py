"""One row per method: what it uploads after its warm-up, and the parameters that change what is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from contract.planted import CLIENTS, made

from fedlease.core.choices import HeadPolicy
from fedlease.core.ranks import Ranks
from fedlease.core.server_step import ServerStep
from fedlease.core.types import Budget
from fedlease.methods.head import Head, with_head
from fedlease.methods.ranks import WithRanks
from fedlease.methods.registry import OWN_RANKS
from fedlease.methods.server_step import WithServerStep


@dataclass(frozen=True)
class Row:
    """What a method uploads, as kinds of tensors, whether it warms up, and its variants.

    One with ``at_most`` may leave passes of the budget unused, and who has made more than E sits rounds out.
    """

    uploads: str
    warms_up: bool = False
    at_most: bool = False
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


TABLE = {
    "fed-sb": Row("G", warms_up=True, variants={"weights": {"start": "weights"}}),
    "fedalt": Row("AB"),
    "feddpa": Row("AB", variants={"none": {"blend": 0.0}}),
    "fedex-lora": Row("AB"),
    "fedit": Row("AB", variants={"yogi": {"server_step": "yogi"}}),
    "fedlease": Row(
        "ABG",
        warms_up=True,
        variants={
            "clients": {"grouping": "clients"},
            "momentum": {"server_step": "momentum"},
            "one": {"num_experts": 1},
            "own": {"routing": "own", "min_silhouette": -1},
            "product": {"average": "product"},
            "ranks": {"signal": "BA", "average": "product", "min_silhouette": -1, "ranks": {"a1": 1, "b0": 1, "z9": 1}},
            "random": {"grouping": "random", "num_experts": 3, "average": "product"},
            "reallocate": {"reallocate": 1, "min_silhouette": -1},
            "reallocate-placed": {"reallocate": 2, "unlike": "place", "expert_start": "client"},
            "router-client": {"router": "client", "top_k": 2},
            "router-own": {"router_start": "own"},
            "trimmed": {"average": "trimmed", "trim": 0.25},
        },
    ),
    "fedlease-plus": Row(
        "AB",
        warms_up=True,
        at_most=True,
        variants={
            "reallocate": {"reallocate": 1},
            "momentum": {"server_step": "momentum", "average": "factors"},
            "ranks": {"unlike": "place", "ranks": {"a1": 1, "b0": 1}},
            "routed": {"routing": "top-m", "unlike": "place"},
        },
    ),
    "fedmomentum": Row("AB", variants={"all": {"energy": 1.0}}),
    "fedprox": Row("AB"),
    "fedrora": Row("ABG", variants={"ranks": {"ranks": {"a1": 1, "b0": 1}}}),
    "fedrot-lora": Row("AB", variants={"half": {"strength": 0.5}}),
    "fedsa-lora": Row("A"),
    "fedsvd": Row("B", variants={"seldom": {"every": 2}}),
    "fedtreelora": Row(
        "AB",
        warms_up=True,
        variants={"deep": {"tau": -1, "window": 4}, "grouping": {"tau": -1, "outside": False}},
    ),
    "ffa-lora": Row("B"),
    "flexlora": Row("AB", variants={"ranks": {"ranks": {"a1": 1, "b0": 1}}}),
    "flora": Row("AB", variants={"ranks": {"ranks": {"a1": 1, "b0": 1}}}),
    "hetlora": Row("AB", variants={"ranks": {"gamma": 0.5, "ranks": {"a1": 1, "b0": 1}}}),
    "hilora": Row("AB", variants={"early": {"root": 0.0, "cluster": 0.1, "apart": 0.0}, "root": {"root": 1.0}}),
    "ifca": Row(
        "AB",
        warms_up=True,
        variants={"one": {"num_candidates": 1}, "many": {"num_candidates": 9, "candidate_start": "clients"}},
    ),
    # In the second round, the first after one step.
    "rolora": Row("A"),
    # Three heads of rank 2 fill the inputs of both modules.
    "ravan": Row("G", variants={"one": {"heads": 1}, "many": {"heads": 5}}),
    "scaffold": Row("AB"),
    "slora": Row("G", variants={"none": {"stage": 0.0}, "all": {"stage": 1.0}, "dense": {"density": 1.0}}),
    "local": Row("", warms_up=True, variants={"ranks": {"ranks": {"a1": 1, "b0": 1}}}),
}
"""A new method adds a row."""

NAMES = [*TABLE, *(f"{name}+{variant}" for name, row in TABLE.items() for variant in row.variants)]
"""Methods, and methods with a variant, which keep the contract of the method."""

# A head matters where a group shares it; how it is trained and sent is one rule for all methods.
CASES = [
    *((name, None) for name in NAMES),
    *((name, "shared") for name in TABLE),
    *((name, policy) for name in ("fedlease", "local") for policy in get_args(HeadPolicy) if policy != "shared"),
]


def row(name: str) -> Row:
    return TABLE[name.partition("+")[0]]


def built(name: str, budget: Budget, head: Any = None, clients: Mapping[str, int] = CLIENTS) -> Any:
    """A method or variant, with heads where a policy is given."""
    base, _, variant = name.partition("+")
    settings = dict(TABLE[base].variants[variant]) if variant else {}
    ranks, step = settings.pop("ranks", None), settings.pop("server_step", None)
    own = Ranks(2, ranks) if ranks and base in OWN_RANKS else None
    method = made(base, budget, **settings, columns=min(ranks.values()) if ranks else None, ranks=own)
    if step is not None:
        method = WithServerStep(method, ServerStep(step))
    if ranks is not None and own is None:
        method = WithRanks(method, 2, ranks)
    if head is None:
        return method
    tensors = {"head/classifier.weight": torch.zeros(2, 6), "head/classifier.bias": torch.zeros(2)}
    heads = {client: Head(("no", "yes"), {k: v.clone() for k, v in tensors.items()}) for client in clients}
    return with_head(method, head, heads)
