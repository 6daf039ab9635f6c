"""What a run will cost, by arithmetic: bytes exactly, time and memory from one measured step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlease.config import Settings

__all__ = ["CheckReport", "MethodEstimate", "adapter_parameters", "estimate_method", "router_parameters"]

ASSUMED_EXPERTS = 4
"""M is only known after the warm-up; estimates take this many, or fewer where there are fewer clients."""

BYTES = 4
BACKWARD = 3
"""A training step costs about this many forward passes: forward, gradient of the inputs, the rest."""


@dataclass(frozen=True)
class MethodEstimate:
    """One method's cost.

    Attributes:
        method: name.
        bytes_up: from all clients to the server, whole run, heads apart.
        bytes_down: from the server to all clients.
        seconds: of training and scoring.
    """

    method: str
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True)
class CheckReport:
    """What ``fedlease check`` found.

    Attributes:
        settings: resolved.
        tasks: client -> task.
        labels: client -> label names.
        train_rows: client -> rows.
        test_rows: client -> rows.
        mean_tokens: per train row.
        truncated: rows longer than ``data.max_tokens``.
        warnings: of the data.
        base_parameters: frozen.
        adapter_parameters: of one A, B pair over all adapted modules.
        router_parameters: of one client's routers at the assumed M.
        head_parameters: of the largest head.
        assumed_experts: M that the estimates take.
        memory_bytes: peak of the process, roughly.
        estimates: one per method.
    """

    settings: Settings
    tasks: Mapping[str, str]
    labels: Mapping[str, Sequence[str]]
    train_rows: Mapping[str, int]
    test_rows: Mapping[str, int]
    mean_tokens: float
    truncated: int
    warnings: Sequence[str]
    base_parameters: int
    adapter_parameters: int
    router_parameters: int
    head_parameters: int
    assumed_experts: int
    memory_bytes: int
    estimates: Sequence[MethodEstimate]


def adapter_parameters(shapes: Mapping[str, tuple[int, int]], r: int) -> int:
    """A and B over all adapted modules: sum of r (in + out)."""
    return sum(r * (features_in + features_out) for features_in, features_out in shapes.values())


def router_parameters(shapes: Mapping[str, tuple[int, int]], num_experts: int) -> int:
    """G over all adapted modules: sum of (2M - 1) in; none when M = 1."""
    return 0 if num_experts == 1 else sum((2 * num_experts - 1) * features_in for features_in, _ in shapes.values())


def estimate_method(
    method: str,
    settings: Settings,
    *,
    num_clients: int,
    train_rows: int,
    test_rows: int,
    adapter: int,
    router: int,
    num_experts: int,
    seconds_per_row: float,
    shared_warmup: bool,
) -> MethodEstimate:
    """One method's bytes and seconds.

    Args:
        method: name.
        settings: budget and participation.
        num_clients: N.
        train_rows: over all clients.
        test_rows: over all clients.
        adapter: parameters of one expert.
        router: parameters of one client's routers.
        num_experts: assumed M.
        seconds_per_row: of one training step, per row.
        shared_warmup: an earlier method of the run does the same warm-up.
    """
    rounds, warmup, epochs = settings.rounds, settings.warmup.epochs, settings.train.local_epochs
    asked = min(settings.clients_per_round or num_clients, num_clients)
    share = asked / num_clients
    passes = warmup + rounds * epochs
    up = down = 0
    trained = warmup + rounds * epochs * share
    scored = 1 + rounds * share + 1
    if method == "fedlease":
        up = num_clients * adapter + rounds * asked * (adapter + router)
        down = num_clients * adapter + rounds * asked * (num_experts * adapter + router)
        scored += num_experts > 1
    elif method == "fedit":
        rounds_of_fedit = -(-passes // epochs)
        up = down = rounds_of_fedit * asked * adapter
        trained = passes * share
        scored = rounds_of_fedit * share + 1
    if shared_warmup and method != "fedit":
        trained -= warmup
        scored -= 1
    seconds = seconds_per_row * (trained * train_rows + scored * test_rows / BACKWARD)
    return MethodEstimate(method, up * BYTES, down * BYTES, seconds)
