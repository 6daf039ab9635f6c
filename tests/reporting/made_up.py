"""Results with names that try to be markup."""

import io
from typing import Any

from rich.console import Console

HOSTILE = "[red]x"


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=160, force_terminal=terminal, record=True)


def summary(
    own: float | None = 0.625,
    up: int = 1_500_000,
    assignment: dict[str, int] | None = None,
    metric: str = "accuracy",
    **more: Any,
) -> dict[str, Any]:
    rows = {
        HOSTILE: {metric: 0.5, "task": "[bold]t[/]", "majority": 0.25, "num_test": 10},
        "b": {metric: 0.75, "task": "u", "majority": 0.5, "num_test": 30},
    }
    return {
        "method": "fedlease",
        "metric": metric,
        "per_client": rows,
        "per_task": {"[bold]t[/]": 0.5, "u": 0.75},
        "mean": 0.625,
        "weighted_mean": 0.6875,
        "worst_client": {"client": HOSTILE, metric: 0.5},
        "own_expert_mean": own,
        "majority_mean": 0.375,
        "bare_base_mean": 0.125,
        "bytes_up": up,
        "bytes_down": 2_000,
        "seconds": {"train": 75.0},
        "assignment": assignment if assignment is not None else {HOSTILE: 0, "b": 1},
        "num_experts": 2,
        "passes": 7,
        "head": "local",
        "seed": 3,
        **more,
    }
