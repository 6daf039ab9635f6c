"""Estimation of a run's cost: its rounds are played over a dry transport, which counts bytes and rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
"""Number of experts M in estimates, since M is only known after the warm-up; fewer if there are few clients."""

BACKWARD = 3
"""Cost of a training step in forward passes: one forward, and about two for the gradients."""


@dataclass(frozen=True)
class MethodEstimate:
    """The estimated cost of one method in the whole run.

    Attributes:
        method: its name.
        bytes_up: from all clients to the server, without heads.
        bytes_down: from the server to all clients, without heads.
        seconds: time for training and scoring.
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
        labels: client -> its labels.
        train_rows: client -> number of train rows.
        by_label: client -> label -> number of train and of test rows.
        scales: client -> mean and standard deviation of the numbers in its train rows; None without numbers.
        test_rows: client -> number of test rows.
        mean_tokens: mean number of tokens of a train row.
        truncated: number of rows longer than ``data.max_tokens``.
        warnings: about data, model and privacy, one sentence each.
        skipped: client -> the reason why it takes no part.
        base_parameters: number of parameters of the base model.
        adapter_parameters: number of parameters of one A, B pair over all adapted modules.
        router_parameters: number of parameters of one client's routers at the assumed M.
        head_parameters: number of parameters of the largest head.
        assumed_experts: M of the estimates.
        memory_bytes: peak memory of the process, roughly.
        estimates: one per method.
        seconds_per_row: number of threads -> seconds to train one row, for one thread, the threads of the settings, and
            all threads that this process may use; {} on a GPU.
        noise: client -> standard deviation of the noise, in units of ``privacy.clip``; {} without ``privacy.epsilon``.
        chosen: setting that was ``auto`` -> its value on this machine with this model, and the reason.
    """

    settings: Settings = field(repr=False)
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
    """Number of parameters of A and B over all adapted modules: sum of r (in + out)."""
    return sum(r * (features_in + features_out) for features_in, features_out in shapes.values())


def router_parameters(shapes: Mapping[str, tuple[int, int]], num_experts: int) -> int:
    """Number of parameters of G over all adapted modules: sum of (2M - 1) in; 0 if M = 1."""
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
        adapter: adapter that all clients start from.
        cards: client -> its card.
        participation: rule for the clients that take part in a step.
        seed: root seed of the run.
        num_experts: number of groups of equal made-up warm-ups.
        seconds_per_row: time to train one row; a forward pass takes a third of it.
        seconds_per_test_row: time to score one row, longer for generation; None: that of a forward pass.
        done: first steps of methods that were estimated before; those of this method are added.
        schedule: rule for the end of a step; None waits for all clients.
        filters: applied to models and updates.
        sums: rules of secure sums; None without them.
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
