"""What of a client's request may be done together with other clients', before it is handled."""

from fedlease.client.messages import Request, Score, Train
from fedlease.client.results import LocalResult
from fedlease.client.stacked_scoring import Scoring
from fedlease.client.stacked_training import Job
from fedlease.client.worker import ClientWorker
from fedlease.core.types import Tensors
from fedlease.tasks.base import Measured

__all__ = ["job_of", "scoring_of"]


def job_of(worker: ClientWorker, request: Request) -> Job | None:
    """What a request trains; None where it must be handled alone.

    That is where nothing is to be trained, where candidates are compared first, and where halves are trained apart.
    """
    if not isinstance(request, Train) or request.task.halves or request.model.candidates:
        return None
    task, client, cache, tensors = request.task, worker.client, worker.cache, _laid_over(worker, request)
    if cache.get(cache.step_key(client.data.id, task, tensors), LocalResult) is not None:
        return None
    return Job(client.data.id, task, tensors, client.train, client.num_labels, worker.on_batch)


def scoring_of(worker: ClientWorker, request: Request) -> Scoring | None:
    """What a request scores; None where it must be handled alone.

    That is where candidates are compared first, and at the end of a mixture, whose experts are counted as well.
    """
    model, client, cache = request.model, worker.client, worker.cache
    match request:
        case Train():
            wanted = worker.score_rounds
        case Score():
            wanted = True
        case _:
            wanted = not model.spec.routed
    if not wanted or model.candidates or not len(client.test):
        return None
    tensors = _laid_over(worker, request)
    first = isinstance(request, Train) and request.task.round <= 1
    if first and cache.get(cache.score_key(client.data.id, model, tensors), Measured) is not None:
        return None
    return Scoring(client.data.id, model.spec, tensors, client.test, client.num_labels)


def _laid_over(worker: ClientWorker, request: Request) -> Tensors:
    """The request's tensors with the private ones, as handling it finds them."""
    worker.private = worker.private.accepted(request.accepted, request.model.spec)
    return worker.private.overlay(request.model.spec, request.model.tensors)
