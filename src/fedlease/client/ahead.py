"""Work of requests that can be done for several clients together, before the requests are handled one by one."""

from dataclasses import replace

from fedlease.client.halves import beginning
from fedlease.client.messages import Finish, Request, Score, Train
from fedlease.client.results import LocalResult
from fedlease.client.stacked_scoring import Scoring
from fedlease.client.stacked_training import Job
from fedlease.client.worker import ClientWorker
from fedlease.core.types import Tensors
from fedlease.tasks.base import Measured

__all__ = ["alone_of", "candidates_of", "job_of", "scoring_of", "untrained_of"]


def candidates_of(worker: ClientWorker, request: Request) -> list[Scoring]:
    """Jobs that score every candidate of a request on the client's train rows; [] without candidates."""
    model, client = request.model, worker.client
    tensors, labels = _laid_over(worker, request), client.num_labels
    return [
        Scoring(client.data.id, model.spec, {**tensors, **candidate}, client.train, labels, number)
        for number, candidate in enumerate(model.candidates)
    ]


def job_of(worker: ClientWorker, request: Request, choice: int | None) -> Job | None:
    """The training job of a request; None if it has none, if its result is known, or if ``choice`` is not known yet."""
    if not isinstance(request, Train) or not request.task.stages:
        return None
    client, cache = worker.client, worker.cache
    task = replace(request.task, sketch=None)
    tensors = _received(worker, request, choice)
    if tensors is None or cache.get(cache.step_key(client.data.id, task, tensors), LocalResult) is not None:
        return None
    begin = beginning(task, tensors, worker.trainer.resident.task, client.train)
    return Job(client.data.id, task, begin, client.train, client.num_labels, worker.on_batch)


def scoring_of(worker: ClientWorker, request: Request, choice: int | None) -> Scoring | None:
    """The scoring job of a request; None as for :func:`job_of`, and for a final mixture, whose experts are counted."""
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
    """The job that scores only the own expert of a final mixture; None if there is nothing to score."""
    spec, client = request.model.spec, worker.client
    if not isinstance(request, Finish) or not spec.routed or not len(client.test):
        return None
    if (tensors := _received(worker, request, choice)) is None:
        return None
    return Scoring(client.data.id, spec, tensors, client.test, client.num_labels, alone=True)


def untrained_of(worker: ClientWorker, request: Finish) -> Scoring | None:
    """The job that scores the untrained model at the end of a run; None if its scores are known."""
    model, client = request.untrained, worker.client
    if worker.cache.get(worker.cache.score_key(client.data.id, model, model.tensors), Measured) is not None:
        return None
    return Scoring(client.data.id, model.spec, model.tensors, client.test, client.num_labels)


def _received(worker: ClientWorker, request: Request, choice: int | None) -> Tensors | None:
    """The tensors of :func:`_laid_over` with the chosen candidate; None if it has not been chosen yet."""
    model, tensors = request.model, _laid_over(worker, request)
    return None if model.candidates and choice is None else {**tensors, **model.chosen(choice)}


def _laid_over(worker: ClientWorker, request: Request) -> Tensors:
    """The request's tensors with the client's private ones in their places; the client's state does not change."""
    return worker.private.accepted(request.accepted, request.model, best=request.best).overlay(request.model)
