"""Joins a newcomer to a finished run of a method without experts, by repeating the last rounds with it alone.

The newcomer is admitted as a late client and gets the method's tasks. Its updates are aggregated alone, on a copy of
the run's last state, so that the models of other clients do not change.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from fedlease.client.messages import Train, Trained
from fedlease.client.training import Trainer
from fedlease.client.worker import Client, ClientWorker
from fedlease.core.types import ClientId, ClientModel, ClientTask
from fedlease.errors import RunFailedError
from fedlease.methods.continuing import at_round
from fedlease.methods.server_step import unstepped
from fedlease.methods.warmup import WARMUP
from fedlease.runs.building import build_method
from fedlease.use.open_run import OpenRun

__all__ = ["join"]

OnBatch = Callable[[str, int, int, float], None]
"""Receives the phase, steps done, steps in total, and the loss."""


def join(
    run: OpenRun, client: Client, trainer: Trainer, epochs: int, on_batch: OnBatch | None = None
) -> tuple[ClientModel, ClientModel]:
    """A newcomer's model on arrival, and after its own rounds.

    It warms up first if the method's late clients do. Candidates, clusters and the rest of the world are chosen or
    computed for it as for any client.

    Args:
        run: opened run folder.
        client: the newcomer, with its rows.
        trainer: trains on the run's resident model.
        epochs: passes over its rows after the warm-up, which determine the number of rounds that are repeated.
        on_batch: called after every optimiser step.

    Raises:
        RunFailedError: its training diverged, or its update was refused.
    """
    me, local = client.data.id, run.settings.train.local_epochs
    heads = {known.id: known.labels for known in run.clients.values() if not known.newcomer} | {me: client.data.labels}
    policy = build_method(run.settings, run.method, {c: run.loaded.head(labels) for c, labels in heads.items()})
    worker = ClientWorker(client, trainer, score_rounds=False)
    policy, state = unstepped(policy, run.saved.state)
    state = policy.admit(state, me, len(client.train))
    arrival = policy.model(state, me)
    arrival = replace(arrival, tensors=worker.received(arrival)[0], candidates=())
    done, step, used = 0, 0, None
    while done < epochs:
        # These are the last rounds, so that a method whose tasks depend on the round ends like the run.
        state = at_round(state, max(1, policy.last_round + 1 - -(-(epochs - done) // local)))
        task = policy.task(state, me)
        assert task is not None  # the round is one of the run
        if task.phase != WARMUP:
            task = _cut(task, epochs - done)
            done += max(stage.epochs for stage in task.stages)
        phase = task.phase

        def tell(_: ClientId, steps: int, total: int, loss: float, phase: str = phase) -> None:
            if on_batch is not None:
                on_batch(phase, steps, total, loss)

        worker.on_batch, step = tell, step + 1
        reply = worker.handle(Train(run.method, step, task, accepted=used))
        if not isinstance(reply, Trained):
            why = getattr(reply, "reason", "it gave no update")
            raise RunFailedError(f"client {me!r} was not onboarded: {phase}: {why}")
        for name, tensor in reply.update.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise RunFailedError(f"client {me!r} was not onboarded: {phase}: {name} is NaN or infinite in places")
        state, used = policy.aggregate(state, [reply.update]), step
    model = policy.model(state, me)
    worker.private = worker.private.accepted(used, model)
    return arrival, replace(model, tensors=worker.received(model)[0], candidates=())


def _cut(task: ClientTask, most: int) -> ClientTask:
    """The task with at most ``most`` passes in each of its stages."""
    return replace(task, stages=tuple(replace(stage, epochs=min(stage.epochs, most)) for stage in task.stages))
