"""A cache of work that several methods or runs share: first steps, and the scores of the untrained model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedlease.client.results import LocalResult
from fedlease.core.codec import CodecError, digest, dumps, loads
from fedlease.core.low_rank import at_rank
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors
from fedlease.errors import RunFolderError
from fedlease.files import read_file, write_atomically
from fedlease.storage.run_files import MOST_WEIGHTS
from fedlease.storage.shelf import IN_MEMORY
from fedlease.tasks.base import Measured

__all__ = ["WorkCache", "begins_with"]

R = TypeVar("R", LocalResult, Measured)


def begins_with(start: ClientModel, task: ClientTask, tensors: Tensors) -> bool:
    """Whether a task trains from the initial adapter, so that other methods may have the same task."""
    if task.round > 1 or task.model.spec.r > start.spec.r or task.term is not None or task.gradients:
        return False
    start = at_rank(start, task.model.spec.r)
    same = (name in tensors and tensors[name].equal(tensor) for name, tensor in start.tensors.items())
    return task.model.spec == start.spec and all(same)


@dataclass
class WorkCache:
    """Results by the content of the work, whichever method it belongs to.

    Attributes:
        context: digest of everything that the work depends on besides the task: rows, base model, optimiser, seed.
        start: initial adapter of the methods that share first steps; None shares only scores.
        folder: for results beyond ``in_memory``; None drops them.
        shared: whether other runs use the folder too, so that every result is written to it.
        in_memory: most bytes of tensors, scores and answers in memory.
    """

    context: str = ""
    start: ClientModel | None = None
    folder: Path | None = None
    shared: bool = False
    in_memory: int = IN_MEMORY
    _results: dict[str, Any] = field(default_factory=dict)
    _bytes: int = 0

    def step_key(self, client: ClientId, task: ClientTask, tensors: Tensors) -> str | None:
        """The key of a first step, 64 hexadecimal digits; None if no other method could have the same step."""
        if self.start is None or not begins_with(self.start, task, tensors):
            return None
        stages = [(sorted(stage.trainable), stage.epochs, stage.experts) for stage in task.stages]
        return digest(f"{self.score_key(client, task.model, tensors)} {task.round} {stages} {task.halves}".encode())

    def score_key(self, client: ClientId, model: ClientModel, tensors: Tensors) -> str:
        """The key of scoring a client's model, 64 hexadecimal digits."""
        return digest(dumps((self.context, client, model.spec, dict(tensors))))

    def get(self, key: str | None, kind: type[R]) -> R | None:
        """The result of a key, or None if there is none of this kind; a damaged file counts as absent."""
        if key is None:
            return None
        found = self._results.get(key)
        if found is None and self.folder is not None:
            try:
                written, found = loads(read_file(self.folder / f"{key[:32]}.safetensors", MOST_WEIGHTS))
            except (OSError, RunFolderError, CodecError, TypeError, ValueError):
                return None
            found = found if written == key else None
        return found if isinstance(found, kind) else None

    def put(self, key: str | None, result: LocalResult | Measured) -> None:
        """Stores a result."""
        if key is None or key in self._results:
            return
        size = _size(result)
        fits = self._bytes + size <= self.in_memory
        if fits:
            self._results[key] = result
            self._bytes += size
        if self.folder is not None and (self.shared or not fits):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key[:32]}.safetensors", dumps((key, result)))


def _size(result: LocalResult | Measured) -> int:
    if isinstance(result, Measured):
        columns = len(result.predictions) + 1
        return 32 * columns * len(result.per_row) + sum(map(len, result.answers)) + 96 * len(result.confusion)
    return sum(tensor.nbytes for tensors in (result.update.tensors, result.private) for tensor in tensors.values())
