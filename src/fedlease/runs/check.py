"""``fedlease check``: checks settings, data and model, and estimates the cost of the run."""

import math
import os
import sys
import time
from dataclasses import replace

import torch

from fedlease.client.private_steps import PrivacyTerms
from fedlease.config.settings import Settings
from fedlease.core.types import Budget
from fedlease.data.federation import Federation
from fedlease.methods.fedit import FedIT
from fedlease.methods.head import with_head
from fedlease.methods.registry import CENTRALISED
from fedlease.runs.building import build_method
from fedlease.runs.estimate import ASSUMED_EXPERTS, CheckReport, adapter_parameters, estimate_method, router_parameters
from fedlease.runs.machine import resolve_machine
from fedlease.runs.open import Prepared, participation_of, prepare
from fedlease.runs.preconditions import check_fit
from fedlease.runs.privacy import privacy_notes, terms_of, trainer_of
from fedlease.runs.stacking import with_clients_per_step
from fedlease.runs.sums import rules_of, sum_notes
from fedlease.runs.threads import usable_threads
from fedlease.server.filters import make_filters
from fedlease.server.schedule import make_schedule
from fedlease.tasks.base import WritingTask

__all__ = ["check_settings"]

PROBE_BATCHES = 3
PROBES = 2
"""Number of trials for each number of threads; the fastest counts, since other processes may disturb a trial."""


def check_settings(settings: Settings, rows: Federation | None = None) -> CheckReport:
    """Loads everything that a run would load, and trains one client for a few batches to measure its speed.

    Args:
        settings: of the run.
        rows: of the settings, if they have been read already or are in memory.

    Raises:
        InputError: whatever a run would raise before its first step.
    """
    prepared = with_clients_per_step(prepare(resolve_machine(settings), rows=rows))
    federation, loaded = prepared.federation, prepared.loaded
    settings, adapter = loaded.settings, loaded.adapter
    cards = {rows.id: rows.card() for rows in federation}
    check_fit(loaded, prepared.heads, cards, federation.skipped)
    terms = terms_of(settings, secret=False)
    by_threads, seconds_per_test_row = _probe(prepared, terms)
    clients = prepared.clients
    # The silhouette scores 2 .. N - 1 groups.
    experts = max(1, min(ASSUMED_EXPERTS, len(clients) - 1, settings.max_experts)) if len(clients) > 2 else 1
    one_expert = adapter_parameters(loaded.shapes, adapter.spec.r)
    router = router_parameters(loaded.shapes, experts)
    done: set[tuple[object, ...]] = set()
    estimates = [
        estimate_method(
            name,
            build_method(settings, name, prepared.heads),
            adapter,
            cards,
            participation_of(settings),
            seed=settings.seed,
            num_experts=experts,
            seconds_per_row=by_threads[settings.num_threads],
            seconds_per_test_row=seconds_per_test_row,
            # A pooled first step is not shared with other methods.
            done=done if name != CENTRALISED else None,
            schedule=make_schedule(*settings.schedule.values()),
            filters=make_filters(settings.filters, adapter.tensors),
            sums=rules_of(settings),
        )
        for name in (settings.method, *settings.baselines)
    ]
    # For pooled training, rows move instead of adapters.
    estimates = [replace(e, bytes_up=0, bytes_down=0) if e.method == CENTRALISED else e for e in estimates]
    tokens = [length for client in clients.values() for length in client.train.lengths]
    heads = [sum(t.numel() for t in head.tensors.values()) for head in prepared.heads.values()]
    return CheckReport(
        settings=settings,
        tasks={rows.id: rows.task for rows in federation},
        labels={rows.id: rows.labels for rows in federation},
        train_rows={rows.id: len(rows.train) for rows in federation},
        by_label={rows.id: rows.by_label for rows in federation},
        scales={rows.id: rows.scale for rows in federation},
        test_rows={rows.id: len(rows.test) for rows in federation},
        mean_tokens=sum(tokens) / len(tokens),
        truncated=sum(client.train.truncated for client in clients.values()),
        warnings=(*prepared.warnings, *privacy_notes(loaded, cards), *sum_notes(settings)),
        skipped=federation.skipped,
        base_parameters=loaded.resident.base_parameters,
        adapter_parameters=one_expert,
        router_parameters=router,
        head_parameters=max(heads),
        assumed_experts=experts,
        memory_bytes=_peak_memory() + 8 * len(clients) * (one_expert + max(heads)),
        estimates=estimates,
        seconds_per_row=by_threads if len(by_threads) > 1 else {},
        noise={} if terms is None else {c: terms.noise(card.weight) for c, card in cards.items() if card.weight},
        chosen=loaded.chosen,
    )


def _probe(prepared: Prepared, terms: PrivacyTerms | None) -> tuple[dict[int, float], float | None]:
    """Measures seconds per train row by number of threads, and seconds per test row for generation, else None."""
    loaded, settings = prepared.loaded, prepared.loaded.settings
    client = max(prepared.clients, key=lambda name: prepared.clients[name].data.weight)
    rows = prepared.clients[client].train.first(PROBE_BATCHES * settings.train.batch_size)
    method = with_head(FedIT(Budget(1, 0)), "frozen", prepared.heads)
    private = trainer_of(loaded, terms)  # before anything is loaded
    task = method.task(method.init(loaded.adapter, dict.fromkeys(prepared.clients, 1), settings.seed), client)
    assert task is not None  # FedIT's first round asks all clients
    labels = len(prepared.clients[client].data.labels)
    loaded.resident.load(task.model, labels)
    # With a GPU, the number of CPU threads hardly matters.
    counts = {settings.num_threads, *((1, usable_threads()) if loaded.device.type == "cpu" else ())}
    training = dict.fromkeys(sorted(counts), math.inf)
    for threads in [*training] * PROBES:
        trainer = replace(private, optimiser=replace(private.optimiser, threads=threads))
        trainer.train(client, task, rows.first(2))
        begun = time.perf_counter()
        trainer.train(client, task, rows)
        training[threads] = min(training[threads], (time.perf_counter() - begun) / len(rows))
    learnt = loaded.resident.task
    if not isinstance(learnt, WritingTask):
        return training, None
    scored = max(prepared.clients.values(), key=lambda own: len(own.test))
    test = scored.test.first(settings.generation.batch_size)
    begun = time.perf_counter()
    learnt.measure(loaded.resident, test, settings.num_threads)
    return training, (time.perf_counter() - begun) / len(test)


def _peak_memory() -> int:
    """Peak memory of this process, in bytes; on a GPU, that of the device's allocator."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    if os.name == "posix":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kibibytes elsewhere
    return 0
