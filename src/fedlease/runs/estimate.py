"""Estimates the cost of a run: plays its rounds over a dry transport, and counts what they ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlease.config.settings import Settings
from fedlease.core.types import ClientId, ClientModel
from fedlease.data.federation import ClientCard, Scale
from fedlease.methods.base import Method
from fedlease.server.dry import DryTransport, NoCheckpoint
from fedlease.server.filters import Filter, Filtered
from fedlease.server.group_sum import Rules
from fedlease.server.loop import RoundLoop
from fedlease.server.memories import Memories
from fedlease.server.participation import Participation
from fedlease.server.schedule import AllReplies, Schedule
from fedlease.server.transport import Channel

__all__ = ["CheckReport", "MethodEstimate", "adapter_parameters", "estimate_method", "router_parameters"]

ASSUMED_EXPERTS = 4
"""M is only known after the warm-up; estimates take this many, or fewer where there are fewer clients."""

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
    """Findings of ``fedlease check``.

    Attributes:
        settings: resolved.
        tasks: client -> task.
        labels: client -> label names.
        train_rows: client -> rows.
        by_label: client -> label -> train and test rows.
        scales: client -> mean and deviation of the numbers of its train rows; None where rows have none.
        test_rows: client -> rows.
        mean_tokens: per train row.
        truncated: rows longer than ``data.max_tokens``.
        warnings: of the data.
        skipped: client -> why it takes no part.
        base_parameters: frozen.
        adapter_parameters: of one A, B pair over all adapted modules.
        router_parameters: of one client's routers at the assumed M.
        head_parameters: of the largest head.
        assumed_experts: M that the estimates take.
        memory_bytes: peak of the process, roughly.
        estimates: one per method.
        seconds_per_row: threads -> seconds of training a row: one thread, as many as the settings say, and as many as
            this process may use; empty on a GPU.
        noise: client -> deviation of the noise in bounded gradients of a row; {} without ``privacy.epsilon``.
        chosen: setting that was ``auto`` -> what it becomes on this machine with this model, and why.
    """

    settings: Settings
    tasks: Mapping[str, str]
    labels: Mapping[str, Sequence[str]]
    train_rows: Mapping[str, int]
    by_label: Mapping[str, Mapping[str, tuple[int, int]]]
    scales: Mapping[str, Scale | None]
    test_rows: Mapping[str, int]
    mean_tokens: float
    truncated: int
    warnings: Sequence[str]
    skipped: Mapping[str, str]
    base_parameters: int
    adapter_parameters: int
    router_parameters: int
    head_parameters: int
    assumed_experts: int
    memory_bytes: int
    estimates: Sequence[MethodEstimate]
    seconds_per_row: Mapping[int, float]
    noise: Mapping[str, float]
    chosen: Mapping[str, str]


def adapter_parameters(shapes: Mapping[str, tuple[int, int]], r: int) -> int:
    """A and B over all adapted modules: sum of r (in + out)."""
    return sum(r * (features_in + features_out) for features_in, features_out in shapes.values())


def router_parameters(shapes: Mapping[str, tuple[int, int]], num_experts: int) -> int:
    """G over all adapted modules: sum of (2M - 1) in; none when M = 1."""
    return 0 if num_experts == 1 else sum((2 * num_experts - 1) * features_in for features_in, _ in shapes.values())


def estimate_method(
    name: str,
    method: Method,
    adapter: ClientModel,
    cards: Mapping[ClientId, ClientCard],
    participation: Participation,
    *,
    seed: int,
    num_experts: int,
    seconds_per_row: float,
    seconds_per_test_row: float | None = None,
    done: set[tuple[object, ...]] | None = None,
    schedule: Schedule | None = None,
    filters: Sequence[Filter] = (),
    sums: Rules | None = None,
) -> MethodEstimate:
    """Plays the rounds of a method with made-up updates and counts bytes, rows trained and rows scored.

    Args:
        name: of the method.
        method: with its head policy.
        adapter: the common start.
        cards: client -> what is known of it.
        participation: which clients take part in a step.
        seed: root seed of the run.
        num_experts: groups that the made-up warm-ups fall into.
        seconds_per_row: of one training step, per row; a pass forward takes a third of it.
        seconds_per_test_row: of scoring, per row; None: a pass forward. Writing answers takes longer.
        done: first steps of the methods that were estimated before; this method's are added.
        schedule: when a step ends; None waits for all.
        filters: what models and updates pass on their way.
        sums: how updates are summed securely; None: they are not.
    """
    done = set() if done is None else done
    memories = Memories()
    dry = DryTransport(
        cards, adapter, num_experts, participation.score_rounds, done, filters, memories=memories, sums=sums
    )
    channel = Channel(Filtered(dry, filters, memories), dry.traffic)
    loop = RoundLoop(name, method, channel, participation, NoCheckpoint(), (), seed, schedule or AllReplies())
    loop.run(adapter)
    loop.finish(lambda client: adapter)
    forward = seconds_per_row / BACKWARD
    scoring = forward if seconds_per_test_row is None else seconds_per_test_row
    work = dry.work
    seconds = seconds_per_row * work.trained + forward * work.compared + scoring * work.scored
    return MethodEstimate(name, int(loop.totals["bytes_up"]), int(loop.totals["bytes_down"]), seconds)
