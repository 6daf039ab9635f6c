"""Small made-up contents of ``compare.json``."""

from statistics import fmean, stdev
from typing import Any

HOSTILE_TASKS = ('<img src=x onerror="window.pwned=1">', "</script><script>window.pwned=1</script> {{ 7 * 7 }} %{x}")
WARMED_UP = [0, 3, 4, 5]
PLAIN = [0, 1, 2, 3, 4, 5]


def spread(*values: float) -> dict[str, Any]:
    return {
        "mean": fmean(values),
        "deviation": stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def variant(
    method: str,
    means: list[float],
    tasks: dict[str, list[float]],
    *,
    passes: list[int] = PLAIN,
    experts: list[int] | None = None,
    up: int = 1000,
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A curve that begins at 0.25 and ends at the seed's mean; the worst client is a tenth below it."""
    curves = [[*(0.25 + 0.05 * step for step in range(len(passes) - 1)), mean] for mean in means]
    return {
        "method": method,
        "changes": changes or {},
        "mean": spread(*means),
        "weighted_mean": spread(*means),
        "worst_client": spread(*(mean - 0.1 for mean in means)),
        "per_task": {task: spread(*values) for task, values in tasks.items()},
        "own_expert_mean": [None] * len(means),
        "num_experts": experts or [None] * len(means),
        "bytes_up": [up] * len(means),
        "bytes_down": [4 * up] * len(means),
        "seconds": [60.0] * len(means),
        "trainable_parameters": 1664,
        "points": [
            [{"passes": at, "mean": mean, "clients": 4} for at, mean in zip(passes, curve, strict=True)]
            for curve in curves
        ],
    }


def compared(tasks: tuple[str, str] = ("mood", "news"), **more: Any) -> dict[str, Any]:
    """fedlease on two seeds: 1 point below local with an interval over zero, 25 above fedit, which only guesses."""
    a, b = tasks
    return {
        "metric": "accuracy",
        "head": "local",
        "passes": 5,
        "num_clients": 4,
        "coverage": [{"seed": seed, "averaged": 4, "clients": 4, "left_out": {}} for seed in (0, 7)],
        "seeds": [0, 7],
        "first": "fedlease",
        "best_other": "local",
        "majority_mean": 0.5,
        "variants": {
            "fedlease": variant(
                "fedlease", [0.8, 0.7], {a: [0.7, 0.7], b: [0.9, 0.7]}, passes=WARMED_UP, experts=[2, 3]
            ),
            "local": variant("local", [0.78, 0.74], {a: [0.8, 0.8], b: [0.76, 0.68]}, up=0),
            "fedit": variant("fedit", [0.5, 0.5], {a: [0.5, 0.5], b: [0.5, 0.5]}, up=500),
        },
        "differences": {
            "local": {"mean": -0.01, "low": -0.04, "high": 0.02, "seeds": 2, "clients": [4, 4]},
            "fedit": {"mean": 0.25, "low": 0.2, "high": 0.3, "seeds": 2, "clients": [4, 4]},
        },
        "learning_rates": {},
        **more,
    }


def three_seeds() -> dict[str, Any]:
    """As :func:`compared`, and a third seed on which every method is at its mean of the others."""
    two = compared()
    more = {
        "fedlease": variant(
            "fedlease",
            [0.8, 0.7, 0.75],
            {"mood": [0.7] * 3, "news": [0.9, 0.7, 0.8]},
            passes=WARMED_UP,
            experts=[2, 3, 2],
        ),
        "local": variant("local", [0.78, 0.74, 0.76], {"mood": [0.8] * 3, "news": [0.76, 0.68, 0.72]}, up=0),
        "fedit": variant("fedit", [0.5] * 3, {"mood": [0.5] * 3, "news": [0.5] * 3}, up=500),
    }
    gaps = {name: {**gap, "seeds": 3} for name, gap in two["differences"].items()}
    return {**two, "seeds": [0, 7, 9], "variants": more, "differences": gaps}


def one_seed() -> dict[str, Any]:
    return compared(
        seeds=[3],
        variants={
            "fedlease": variant("fedlease", [0.8], {"mood": [0.7], "news": [0.9]}, passes=WARMED_UP, experts=[2]),
            "local": variant("local", [0.7], {"mood": [0.6], "news": [0.8]}, up=0),
        },
        differences={"local": {"mean": 0.1, "low": 0.05, "high": 0.15, "seeds": 1, "clients": [4]}},
        coverage=[{"seed": 3, "averaged": 4, "clients": 4, "left_out": {}}],
    )


def alone() -> dict[str, Any]:
    content = one_seed()
    return {
        **content,
        "best_other": None,
        "variants": {"fedlease": content["variants"]["fedlease"]},
        "differences": {},
    }


def hostile() -> dict[str, Any]:
    """Tasks, metric, settings and names that try to be markup."""
    content = compared(HOSTILE_TASKS, metric=HOSTILE_TASKS[0], head=HOSTILE_TASKS[1])
    content["variants"][HOSTILE_TASKS[0]] = {
        **content["variants"].pop("fedit"),
        "changes": {HOSTILE_TASKS[1]: HOSTILE_TASKS[0]},
    }
    content["differences"][HOSTILE_TASKS[0]] = content["differences"].pop("fedit")
    return content


def tuned() -> dict[str, Any]:
    content = compared()
    rates = {"0.0003": 0.6, "0.001": 0.7, "0.003": 0.65}
    for row in content["variants"].values():
        row["changes"] = {"train.lr": 0.001}
    return {**content, "learning_rates": dict.fromkeys(content["variants"], rates)}


def many() -> dict[str, Any]:
    """Twenty methods of every kind: number n has mean 0.5 + n / 100, sends n kB and needs 20 - n minutes."""
    kinds = {"fedlease": "groups", "local": "not federated", "theirs": "added"}
    names = [
        "fedlease",
        "local",
        "theirs",
        *(f"shared-{n}" for n in range(3, 12)),
        *(f"own-{n}" for n in range(12, 20)),
    ]
    found = {}
    for n, name in enumerate(names):
        mean = 0.5 + n / 100
        row = variant(name, [mean, mean], {"mood": [mean + 0.1] * 2, "news": [mean - 0.1] * 2}, up=1000 * n)
        kind = kinds.get(name, "one for all" if name.startswith("shared") else "partly own")
        found[name] = {**row, "kind": kind, "seconds": [60.0 * (20 - n)] * 2}
    gaps = {
        name: {"mean": -n / 100, "low": -n / 100 - 0.05, "high": 0.05 - n / 100, "seeds": 2, "clients": [4, 4]}
        for n, name in enumerate(names)
        if n
    }
    failed = {"fedsvd": {"method": "fedsvd", "seed": 7, "reason": "3 of 4 updates were refused", "kind": "one for all"}}
    return compared(variants=found, differences=gaps, failed=failed)
