"""What a node lets its server ask for: rules of the node alone, which every message must meet."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedlease.client.messages import Train
from fedlease.config.data import ColumnSettings
from fedlease.config.faults import nearest, sentences
from fedlease.config.layers import unfold
from fedlease.config.sections import Positive, Section
from fedlease.config.settings import Settings
from fedlease.core.types import TensorName
from fedlease.errors import ConfigError
from fedlease.flower.bounds import NAME, shown
from fedlease.flower.messages import Envelope
from fedlease.flower.validation import models_of
from fedlease.methods.registry import METHODS, added_methods
from fedlease.models.sources import SHORT_NAMES
from fedlease.storage.environment import is_identity

__all__ = ["MAX_SETTINGS", "NodePolicy"]

MAX_SETTINGS = 256 * 1024
"""Characters of the settings in a message."""

OF_PRESETS = ("FacebookAI/roberta-large", "meta-llama/Llama-2-7b-hf")
"""Hub models that the shipped presets use."""

LISTS = ("data_folders", "models", "uploads")
"""Rules whose values are lists, written with commas: a node's configuration holds texts."""

BOTH = "max-rank x max-experts"

_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_DEVICE = re.compile(r"[a-z]{1,10}(:[0-9]{1,2})?")


class NodePolicy(Section):
    """Rules of a node, read from its own configuration, never from a message."""

    models: tuple[str, ...] = (*SHORT_NAMES, *OF_PRESETS)
    """Base models that a message may name; a node with a ``model`` of its own uses that one."""
    data_folders: tuple[Path, ...] = ()
    """Folders under which ``data.path`` of a message may lie, for nodes without a ``data-dir``."""
    columns: ColumnSettings = ColumnSettings()
    """The node's own columns: rows are read by these, and a message may name these or the default ones."""
    uploads: tuple[Literal["A", "B", "G", "head"], ...] = ("A", "B", "G")
    """Kinds of tensors that may leave: LoRA A and B, routers and cores G, and the classifier head."""
    max_labels: Positive = 1000
    """Labels in the client's card."""
    max_label_length: Positive = 100
    """Characters of such a label."""
    max_epochs: Positive = 100
    """Passes over the rows for one message, all stages together."""
    max_stages: Positive = 16
    """Stages of training in one message."""
    max_rounds: Positive = 1000
    """Rounds of a run; the node does at most three times as many tasks for it, since steps may be repeated."""
    max_rank: Positive = 128
    """Rank of an adapter."""
    max_experts: Positive = 64
    """Experts in a model, and candidates to choose from."""
    max_batch: Positive = 1024
    """Rows per optimiser step, and answers generated at once."""
    max_tokens: Positive = 4096
    """Tokens of a row."""
    max_new_tokens: Positive = 1024
    """Tokens of a generated answer."""
    max_threads: Positive = 256
    """CPU threads."""
    max_megabytes: Positive = 1024
    """Tensors in one message, in MiB."""
    max_runs: Positive = 100
    """Runs whose state the node stores in its ``state-dir``."""
    keep_loaded: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] = 0.0
    """Seconds for which a process with the base model stays after a message, see ``worker_process.py``."""
    send_samples: Annotated[bool, Field(strict=True)] = False
    """Whether some test rows may go to the server in clear text, with the models' answers."""
    max_samples: Annotated[int, Field(ge=0)] = 10
    """Such rows per method."""

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> "NodePolicy":
        """Reads the rules from a node's configuration, whose keys have dashes, and dots for columns: ``columns.text``.

        Raises:
            ConfigError: a value is outside its range, or a key resembles a rule's and is none.
        """
        names = {name.replace("_", "-"): name for name in cls.model_fields if name != "columns"}
        names |= {f"columns.{name}": f"columns.{name}" for name in ColumnSettings.model_fields}
        faults, given = [], dict[str, Any]()
        for key, value in node_config.items():
            if key in names:
                listed = names[key] in LISTS and isinstance(value, str)
                given[names[key]] = [part.strip() for part in value.split(",") if part.strip()] if listed else value
            elif key.startswith(("max-", "columns.")):
                faults.append(f"{key}: no such rule of a node{nearest(key, names)}")
        try:
            made = cls.model_validate(unfold(given))
        except ValidationError as error:
            keys = {name: key for key, name in names.items()}
            for sentence in sentences(error, cls):
                name, colon, rest = sentence.partition(":")
                faults.append(f"{keys.get(name, name)}{colon}{rest}")
        if faults:
            raise ConfigError([f"node-config: {fault}" for fault in faults])
        return made

    def applied(self, settings: Settings, *, with_path: bool) -> Settings:
        """The settings as the node uses them: its own columns, and ``data.path`` only where the node reads it."""
        data = settings.data.model_copy(update={"columns": self.columns})
        return settings.model_copy(update={"data": data if with_path else data.model_copy(update={"path": None})})

    def faults(self, message: Envelope, settings: Settings, *, own_model: bool, own_rows: bool) -> list[str]:
        """The rules that a message breaks, one sentence each.

        Args:
            message: from the server, of the right form.
            settings: that it holds.
            own_model: whether the node's configuration names the model.
            own_rows: whether the node's configuration says where the rows are.
        """
        found = [*self._of_settings(settings, own_model=own_model, own_rows=own_rows)]
        if not is_identity(message.run):
            found.append(f"run: must be 32 hexadecimal digits, received {shown(message.run)!r}")
        request = message.request
        if request is None:
            return found
        if request.method not in (known := sorted({*METHODS, *added_methods()})):
            found.append(f"method: must be one of {', '.join(known)}, received {shown(request.method)!r}")
        pairs = []
        if isinstance(request, Train):
            task = request.task
            epochs = sum(stage.epochs for stage in task.stages)
            pairs += [
                ("stages", len(task.stages), self.max_stages, "max-stages"),
                ("epochs", epochs, self.max_epochs, "max-epochs, together"),
                ("round", task.round, self.max_rounds, "max-rounds"),
                ("step", request.step, 10 * self.max_rounds, "max-rounds"),
            ]
            if kinds := {_kind(name) for name in task.upload} - {*self.uploads}:
                own, asked = ", ".join(self.uploads) or "nothing", ", ".join(sorted(kinds))
                found.append(f"upload: {own} may leave this node (uploads), asked for {asked}")
        for model in models_of(request).values():
            pairs += [
                ("rank", model.spec.r, self.max_rank, "max-rank"),
                # Experts that are summed are one update, however they are cut.
                ("rank of all experts", model.spec.r * model.spec.num_experts, self.max_rank * self.max_experts, BOTH)
                if model.spec.mixer == "sum"
                else ("num_experts", model.spec.num_experts, self.max_experts, "max-experts"),
                ("candidates", len(model.candidates), self.max_experts, "max-experts"),
                ("anchors", model.spec.anchors, self.max_batch, "max-batch"),
            ]
        return list(dict.fromkeys([*found, *_beyond(pairs)]))

    def rank_fault(self, rank: int) -> str:
        """Why the node's client does not train at a rank; empty if it does."""
        return next(_beyond([("lora.r", rank, self.max_rank, "max-rank")]), "")

    def labels_fault(self, labels: tuple[str, ...]) -> str:
        """Why the labels of the node's rows must not leave; empty if they may."""
        if len(labels) > self.max_labels:
            return f"its rows have {len(labels)} labels, max-labels of its node is {self.max_labels}"
        longest, most = max(map(len, labels), default=0), self.max_label_length
        if longest > most:
            return f"a label of its rows has {longest} characters, max-label-length of its node is {most}"
        return ""

    def _of_settings(self, settings: Settings, *, own_model: bool, own_rows: bool) -> Iterator[str]:
        data, generation = settings.data, settings.generation
        defaults = ColumnSettings()
        for name in ColumnSettings.model_fields:
            asked, own = getattr(data.columns, name), getattr(self.columns, name)
            if asked not in (own, getattr(defaults, name)):
                yield f"data.columns.{name}: this node reads {own!r} (columns.{name}), received {shown(asked)!r}"
        if not own_model and settings.model not in self.models:
            yield f"model: this node loads {', '.join(self.models)} (models), received {shown(settings.model)!r}"
        if settings.revision is not None and not _REVISION.fullmatch(settings.revision):
            yield f"revision: must be a commit or a plain name, received {shown(settings.revision)!r}"
        if not _DEVICE.fullmatch(settings.device):
            yield f"device: must be the name of a device, received {shown(settings.device)!r}"
        if settings.head == "shared" and "head" not in self.uploads:
            yield f"head: 'shared' sends heads to the server, {', '.join(self.uploads)} may leave this node (uploads)"
        if not own_rows and data.path is not None and not self._may_read(data.path):
            path = shown(str(data.path))
            yield f"data.path: this node reads rows in its own folders alone (data-folders), received {path!r}"
        if settings.seed >= 2**63:
            yield "seed: must be below 2 ** 63"
        pairs = (
            ("rounds", settings.rounds, self.max_rounds, "max-rounds"),
            ("warmup.epochs", settings.warmup.epochs, self.max_epochs, "max-epochs"),
            ("train.local_epochs", settings.train.local_epochs, self.max_epochs, "max-epochs"),
            ("lora.r", settings.lora.smallest, self.max_rank, "max-rank"),
            ("train.batch_size", settings.train.batch_size, self.max_batch, "max-batch"),
            ("generation.batch_size", generation.batch_size, self.max_batch, "max-batch"),
            ("data.max_tokens", data.max_tokens, self.max_tokens, "max-tokens"),
            ("generation.max_new_tokens", generation.max_new_tokens, self.max_new_tokens, "max-new-tokens"),
            ("generation.samples", generation.samples, self.max_samples, "max-samples"),
            ("feddpa.num_anchors", settings.feddpa.num_anchors, self.max_batch, "max-batch"),
            ("threads", settings.num_threads, self.max_threads, "max-threads"),
            ("generation.stop", len(generation.stop), NAME, "entries"),
        )
        yield from _beyond(pairs)

    def _may_read(self, path: Path) -> bool:
        wanted = path.expanduser().resolve()
        return any(wanted.is_relative_to(folder.expanduser().resolve()) for folder in self.data_folders)


def _beyond(values: Iterable[tuple[str, int, int, str]]) -> Iterator[str]:
    """Sentences on values, named, that are above their bound, which belongs to a rule."""
    for name, value, most, rule in values:
        if value > most:
            yield f"{name}: must be at most {most} ({rule}), received {shown(value)}"


def _kind(name: Any) -> str:
    """The kind of a tensor by its name, as ``uploads`` has it."""
    try:
        parsed = TensorName.parse(name)
    except (AttributeError, ValueError):
        return shown(name)
    return parsed.module if parsed.module in ("head", "anchor") else parsed.kind
