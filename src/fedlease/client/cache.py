"""Results of first steps, so that methods that begin with the same work do it once."""

from dataclasses import dataclass, field
from pathlib import Path

from fedlease.client.training import LocalResult
from fedlease.core.codec import CodecError, digest, dumps, loads
from fedlease.core.types import ClientId, ClientTask, Tensors
from fedlease.errors import RunFolderError
from fedlease.files import read_file, write_atomically
from fedlease.storage.run_files import MOST_WEIGHTS
from fedlease.tasks.base import Measured

__all__ = ["FirstStep", "WorkCache"]

FirstStep = tuple[LocalResult, dict[str, float]]
"""What training left, and the scores of the model received."""


@dataclass
class WorkCache:
    """Keyed by the content of the work, not by who asks for it.

    Attributes:
        context: digest of all that the work depends on beside the task: rows, base model, optimiser, seed.
        folder: where results are kept beyond this process; None keeps them in memory only.
        bare: client -> how the untrained model does.
    """

    context: str = ""
    folder: Path | None = None
    bare: dict[ClientId, Measured] = field(default_factory=dict)
    _kept: dict[str, FirstStep] = field(default_factory=dict)

    def key(self, client: ClientId, task: ClientTask, tensors: Tensors) -> str | None:
        """The work's name, 64 hexadecimal digits; None for work that is not kept: later rounds."""
        if task.round > 1:
            return None
        stages = [(sorted(stage.trainable), stage.epochs, stage.experts) for stage in task.stages]
        values = dumps((client, task.model.spec, dict(sorted(tensors.items()))))
        return digest(values + repr((self.context, task.round, stages)).encode())

    def get(self, key: str | None) -> FirstStep | None:
        """What is kept under a key; a damaged file counts as absent."""
        if key is None:
            return None
        if key not in self._kept and self.folder is not None:
            path = self.folder / f"{key[:32]}.safetensors"
            try:
                found_key, result, metrics = loads(read_file(path, MOST_WEIGHTS))
            except (OSError, RunFolderError, CodecError, TypeError, ValueError):
                return None
            if found_key == key:
                self._kept[key] = (result, metrics)
        return self._kept.get(key)

    def put(self, key: str | None, step: FirstStep) -> None:
        """Keeps a result."""
        if key is None or key in self._kept:
            return
        self._kept[key] = step
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key[:32]}.safetensors", dumps((key, *step)))
