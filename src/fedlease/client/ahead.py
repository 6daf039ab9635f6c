"""Work of a request that can be done together with other clients', before the request is handled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedlease.client.halves import both, halves_of
from fedlease.client.messages import Finish, Request, Score, Train
from fedlease.client.results import LocalResult, as_trained
from fedlease.client.stacked_scoring import Scoring
from fedlease.client.stacked_training import Job
from fedlease.client.store import Private
from fedlease.client.worker import ClientWorker
from fedlease.core.types import ClientId, Tensors
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import Measured

__all__ = ["alone_of", "candidates_of", "jobs_of", "result_of", "scoring_of", "untrained_of"]


def candidates_of(worker: ClientWorker, request: Request) -> list[Scoring]:
    """The models that a request has compared on the train rows before all else; empty where there is nothing to choose,
    and where adapters are compared by more than their loss.
    """
    model, client = request.model, worker.client
    if isinstance(request, Train) and (request.task.halves or request.task.refit):
        return []
    tensors, labels = _laid_over(worker, request), client.num_labels
    return [
        Scoring(client.data.id, model.spec, {**tensors, **candidate}, client.train, labels, number)
        for number, candidate in enumerate(model.candidates)
    ]


def jobs_of(worker: ClientWorker, request: Request, choice: int | None) -> list[Job]:
    """The training jobs of a request: one, or one for each half of the rows; none if it must be handled alone.

    That is where nothing is to be trained, and where candidates are compared first and ``choice`` does not tell which
    is the best.
    """
    if not isinstance(request, Train) or not request.task.stages:
        return []
    client, cache = worker.client, worker.cache
    try:
        task = as_trained(client.data.id, request.task, _private(worker, request))
    except UpdateRefusedError:
        return []
    tensors = _laid_over(worker, request) if task.halves else _received(worker, request, choice)
    if tensors is None or cache.get(cache.step_key(client.data.id, task, tensors), LocalResult) is not None:
        return []
    name, labels, report = client.data.id, client.num_labels, worker.on_batch
    if not task.halves:
        return [Job(name, task, tensors, client.train, labels, report)]
    trainer = worker.trainer
    halves = halves_of(task, client.train, trainer.resident.task, trainer.optimiser.seed, name)
    apart = replace(task, halves=False)
    # Both go on at once, so that one of them says how far.
    reports = (None, None if report is None else lambda who, done, total, loss: report(who, 2 * done, 2 * total, loss))
    return [
        Job(name, apart, own, rows, labels, on_batch, number)
        for on_batch, (number, own, rows) in zip(reports, halves, strict=True)
    ]


def result_of(
    jobs: Sequence[Job], results: Mapping[tuple[ClientId, int], LocalResult | UpdateRefusedError]
) -> LocalResult | UpdateRefusedError | None:
    """The result of a client's jobs; None if the client must be trained alone."""
    found = [results.get(job.key) for job in jobs]
    if refused := [result for result in found if isinstance(result, UpdateRefusedError)]:
        return refused[0]
    done = [result for result in found if isinstance(result, LocalResult)]
    if not done or len(done) < len(jobs):
        return None
    return done[0] if len(done) == 1 else both(done[0], done[1], sum(len(job.rows) for job in jobs))


def scoring_of(worker: ClientWorker, request: Request, choice: int | None) -> Scoring | None:
    """The scoring that a request asks for; None if it must be handled alone, as for :func:`jobs_of`, and for a mixture
    whose experts are counted as well.
    """
    model, client, cache = request.model, worker.client, worker.cache
    match request:
        case Train():
            wanted = worker.score_rounds and bool(request.task.stages)
        case Score():
            wanted = True
        case _:
            wanted = not model.spec.routed
    if not wanted or not len(client.test) or (tensors := _received(worker, request, choice)) is None:
        return None
    first = isinstance(request, Train) and request.task.round <= 1
    if first and cache.get(cache.score_key(client.data.id, model, tensors), Measured) is not None:
        return None
    return Scoring(client.data.id, model.spec, tensors, client.test, client.num_labels)


def alone_of(worker: ClientWorker, request: Request, choice: int | None) -> Scoring | None:
    """The own expert of a mixture, scored separately at the end of a run; None if there is nothing to score."""
    spec, client = request.model.spec, worker.client
    if not isinstance(request, Finish) or not spec.routed or not len(client.test):
        return None
    if (tensors := _received(worker, request, choice)) is None:
        return None
    return Scoring(client.data.id, spec, tensors, client.test, client.num_labels, alone=True)


def untrained_of(worker: ClientWorker, request: Finish) -> Scoring | None:
    """The untrained model, which is also scored at the end of a run; None if its scores are known."""
    model, client = request.untrained, worker.client
    if worker.cache.get(worker.cache.score_key(client.data.id, model, model.tensors), Measured) is not None:
        return None
    return Scoring(client.data.id, model.spec, model.tensors, client.test, client.num_labels)


def _received(worker: ClientWorker, request: Request, choice: int | None) -> Tensors | None:
    """The tensors of :func:`_laid_over` with the chosen candidate; None if it has not been chosen yet."""
    candidates, tensors = request.model.candidates, _laid_over(worker, request)
    if not candidates:
        return tensors
    return None if choice is None else {**tensors, **candidates[choice]}


def _laid_over(worker: ClientWorker, request: Request) -> Tensors:
    """The request's tensors with the private ones; those of halves that go on are what each half begins with alone."""
    on = isinstance(request, Train) and request.task.goes_on
    return _private(worker, request).overlay(replace(request.model, warmed=request.model.warmed and not on))


def _private(worker: ClientWorker, request: Request) -> Private:
    """The private tensors with which the request is handled; nothing is accepted yet."""
    return worker.private.accepted(request.accepted, request.model, best=request.best)
