"""Rules of a node that limit what its server may ask for; only the node's operator sets them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedlease.client.messages import Masked, Request, Train, Trained
from fedlease.client.sum_messages import SumAsk
from fedlease.config.data import ColumnSettings
from fedlease.config.sections import Positive, Section
from fedlease.config.settings import Settings
from fedlease.core.types import TensorName
from fedlease.errors import RulesError
from fedlease.flower.bounds import NAME, shown
from fedlease.flower.messages import Envelope
from fedlease.flower.validation import models_of
from fedlease.methods.registry import METHODS, added_methods
from fedlease.methods.warmup import WARMUP
from fedlease.models.sources import SHORT_NAMES
from fedlease.storage.environment import is_identity

__all__ = ["MAX_SETTINGS", "NodePolicy"]

MAX_SETTINGS = 256 * 1024
"""Most characters of the settings in a message."""

OF_PRESETS = ("FacebookAI/roberta-large", "meta-llama/Llama-2-7b-hf")
"""Hub models that the shipped presets use."""

BOTH = "max-rank x max-experts"
MIB = 2**20

Broken = tuple[str, str]
"""Name of a broken rule, and a sentence for the node's log."""

Budget = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None

_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_DEVICE = re.compile(r"[a-z]{1,10}(:[0-9]{1,2})?")


class NodePolicy(Section):
    """Rules of a node; ``rules_file.py`` reads them."""

    models: tuple[str, ...] = (*SHORT_NAMES, *OF_PRESETS)
    """Base models that a message may name, for nodes without a ``model`` of their own."""
    data_folders: tuple[Path, ...] = ()
    """Folders in which ``data.path`` of a message may be, for nodes without a ``data-dir``."""
    columns: ColumnSettings = ColumnSettings()
    """Columns by which the node reads its rows; a message must name these or the default ones."""
    uploads: tuple[Literal["A", "B", "G", "head"], ...] = ("A", "B", "G")
    """Kinds of tensors that may leave: LoRA A and B, G (routers, cores, differences to weights), and the head."""
    max_labels: Positive = 1000
    """Most labels in the client's card."""
    max_label_length: Positive = 100
    """Most characters of such a label."""
    max_epochs: Positive = 100
    """Most passes over the rows for one message, in all stages together."""
    max_stages: Positive = 16
    """Most stages of training in one message."""
    max_rounds: Positive = 1000
    """Most rounds of a run; the node does at most three times as many tasks for it, since steps may be repeated."""
    max_rank: Positive = 128
    """Largest rank of an adapter."""
    max_experts: Positive = 64
    """Most experts in a model, and most candidates to choose from."""
    max_batch: Positive = 1024
    """Most rows per optimiser step, and most answers generated at once."""
    max_tokens: Positive = 4096
    """Most tokens of a row."""
    max_new_tokens: Positive = 1024
    """Most tokens of a generated answer."""
    max_batch_tokens: Positive = 65_536
    """Most tokens per optimiser step (rows times tokens of a row), which determine its memory."""
    max_threads: Positive = 256
    """Most CPU threads."""
    max_megabytes: Positive = 1024
    """Most MiB of tensors in one message."""
    max_upload_megabytes: Positive = 1024
    """Most MiB of tensors that leave with one reply."""
    max_runs: Positive = 100
    """Most runs whose state the node stores in its ``state-dir``."""
    keep_loaded: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] = 0.0
    """Seconds for which a process with the base model stays after a message, see ``worker_process.py``."""
    send_samples: Annotated[bool, Field(strict=True)] = False
    """Whether some test rows may go to the server in clear text, with the models' answers."""
    max_samples: Annotated[int, Field(ge=0)] = 10
    """Most such rows per method."""
    max_epsilon: Budget = None
    """Largest ``privacy.epsilon`` of a run; None does not require differential privacy."""
    max_delta: Budget = None
    """Largest ``privacy.delta`` of a run; likewise."""
    max_total_epsilon: Budget = None
    """Largest sum of ``privacy.epsilon`` over all runs on these rows, see ``privacy_budget.py``; likewise."""
    max_total_delta: Budget = None
    """Largest sum of ``privacy.delta`` over all runs on these rows; likewise."""
    secure_sums: Annotated[bool, Field(strict=True)] = False
    """Whether ``privacy.secure_sums`` is required, so that no update after the warm-up leaves without masks."""
    max_sketch: Positive | None = None
    """Largest ``privacy.sketch``, in numbers; None does not require sketches of warm-ups."""

    def applied(self, settings: Settings, *, with_path: bool) -> Settings:
        """The settings with the node's own columns, and without ``data.path`` unless ``with_path``."""
        data = settings.data.model_copy(update={"columns": self.columns})
        return settings.model_copy(update={"data": data if with_path else data.model_copy(update={"path": None})})

    def check(self, message: Envelope, settings: Settings, *, own_model: bool, own_rows: bool) -> None:
        """Checks a message against the rules.

        Args:
            message: a message whose form was checked.
            settings: the settings in it.
            own_model: whether the node's configuration names the model.
            own_rows: whether the node's configuration says where the rows are.

        Raises:
            RulesError: it breaks rules; the error has a sentence for each.
        """
        found = [*self._of_settings(settings, own_model=own_model, own_rows=own_rows)]
        if not is_identity(message.run):
            found.append(("run", f"run: must be 32 hexadecimal digits, received {shown(message.run)!r}"))
        if message.request is not None:
            found += self._of_request(message.request)
        if found:
            raise RulesError([*dict.fromkeys(found)])

    def check_client(self, rank: int, labels: tuple[str, ...]) -> None:
        """Checks what depends on the node's client.

        Args:
            rank: rank of its adapter by the settings.
            labels: labels of its rows, which leave with its card.

        Raises:
            RulesError: the rank or the labels break a rule.
        """
        longest = max(map(len, labels), default=0)
        pairs = (
            ("lora.r", rank, self.max_rank, "max-rank"),
            ("labels of its rows", len(labels), self.max_labels, "max-labels"),
            ("characters of a label", longest, self.max_label_length, "max-label-length"),
        )
        if found := [*_beyond(pairs)]:
            raise RulesError(found)

    def check_reply(self, reply: object) -> None:
        """Checks the size of a reply that is about to leave, in the form in which it is sent.

        Raises:
            RulesError: it has more bytes than a rule allows.
        """
        size = sum(tensor.nbytes for tensor in reply.update.tensors.values()) if isinstance(reply, Trained) else 0
        size = reply.values.nbytes if isinstance(reply, Masked) else size
        if found := [
            *_beyond([("bytes of the upload", size, self.max_upload_megabytes * MIB, "max-upload-megabytes")])
        ]:
            raise RulesError(found)

    def _of_request(self, request: Request | SumAsk) -> Iterator[Broken]:
        if request.method not in (known := sorted({*METHODS, *added_methods()})):
            yield "method", f"method: must be one of {', '.join(known)}, received {shown(request.method)!r}"
        pairs = []
        if isinstance(request, SumAsk):
            yield from _beyond([("step", request.step, 10 * self.max_rounds, "max-rounds")])
            return
        if isinstance(request, Train):
            task = request.task
            epochs = sum(stage.epochs for stage in task.stages)
            pairs += [
                ("stages", len(task.stages), self.max_stages, "max-stages"),
                ("epochs of all stages", epochs, self.max_epochs, "max-epochs"),
                ("round", task.round, self.max_rounds, "max-rounds"),
                ("step", request.step, 10 * self.max_rounds, "max-rounds"),
            ]
            if task.phase == WARMUP and task.upload and self.max_sketch is not None:
                modules = len(task.model.spec.target_modules)
                # Rounding to a whole number in each module may add a few numbers.
                if task.sketch is None or task.sketch.numbers * modules > self.max_sketch + modules:
                    yield (
                        "max-sketch",
                        f"a warm-up: leaves as a sketch of at most {self.max_sketch} numbers (max-sketch)",
                    )
            if kinds := {_kind(name) for name in task.upload} - {*self.uploads}:
                own, asked = ", ".join(self.uploads) or "nothing", ", ".join(sorted(kinds))
                yield "uploads", f"upload: {own} may leave this node (uploads), asked for {asked}"
        for model in models_of(request).values():
            pairs += [
                ("rank", model.spec.r, self.max_rank, "max-rank"),
                # Experts that are summed amount to one update of their total rank.
                ("rank of all experts", model.spec.r * model.spec.num_experts, self.max_rank * self.max_experts, BOTH)
                if model.spec.mixer == "sum"
                else ("num_experts", model.spec.num_experts, self.max_experts, "max-experts"),
                ("candidates", len(model.candidates), self.max_experts, "max-experts"),
                ("anchors", model.spec.anchors, self.max_batch, "max-batch"),
            ]
        yield from _beyond(pairs)

    def _of_settings(self, settings: Settings, *, own_model: bool, own_rows: bool) -> Iterator[Broken]:
        data, generation = settings.data, settings.generation
        defaults = ColumnSettings()
        for name in ColumnSettings.model_fields:
            asked, own = getattr(data.columns, name), getattr(self.columns, name)
            if asked not in (own, getattr(defaults, name)):
                rule = f"columns.{name}"
                yield rule, f"data.columns.{name}: this node reads {own!r} ({rule}), received {shown(asked)!r}"
        if not own_model and settings.model not in self.models:
            own = ", ".join(self.models)
            yield "models", f"model: this node loads {own} (models), received {shown(settings.model)!r}"
        if settings.revision is not None and not _REVISION.fullmatch(settings.revision):
            yield "revision", f"revision: must be a commit or a plain name, received {shown(settings.revision)!r}"
        if not _DEVICE.fullmatch(settings.device):
            yield "device", f"device: must be the name of a device, received {shown(settings.device)!r}"
        if settings.head == "shared" and "head" not in self.uploads:
            own = ", ".join(self.uploads)
            yield "uploads", f"head: 'shared' sends heads to the server, {own} may leave this node (uploads)"
        if not own_rows and data.path is not None and not self._may_read(data.path):
            path = shown(str(data.path))
            yield "data-folders", f"data.path: this node reads rows only in its data-folders, received {path!r}"
        if settings.seed >= 2**63:
            yield "seed", "seed: must be below 2 ** 63"
        yield from self._of_privacy(settings)
        tokens = settings.train.batch_size * data.max_tokens
        pairs = (
            ("rounds", settings.rounds, self.max_rounds, "max-rounds"),
            ("warmup.epochs", settings.warmup.epochs, self.max_epochs, "max-epochs"),
            ("train.local_epochs", settings.train.local_epochs, self.max_epochs, "max-epochs"),
            ("lora.r", settings.lora.smallest, self.max_rank, "max-rank"),
            ("train.batch_size", settings.train.batch_size, self.max_batch, "max-batch"),
            ("generation.batch_size", generation.batch_size, self.max_batch, "max-batch"),
            ("data.max_tokens", data.max_tokens, self.max_tokens, "max-tokens"),
            ("train.batch_size x data.max_tokens", tokens, self.max_batch_tokens, "max-batch-tokens"),
            ("generation.max_new_tokens", generation.max_new_tokens, self.max_new_tokens, "max-new-tokens"),
            ("generation.samples", generation.samples, self.max_samples, "max-samples"),
            ("feddpa.num_anchors", settings.feddpa.num_anchors, self.max_batch, "max-batch"),
            ("threads", settings.num_threads, self.max_threads, "max-threads"),
            ("generation.stop", len(generation.stop), NAME, "entries"),
        )
        yield from _beyond(pairs)

    def _of_privacy(self, settings: Settings) -> Iterator[Broken]:
        """Rules for ``privacy.*`` that settings break."""
        given = settings.privacy
        if self.secure_sums and not given.secure_sums:
            yield "secure-sums", "privacy.secure_sums: must be true (secure-sums), received False"
        if self.max_sketch is not None and not 0 < (given.sketch or 0) <= self.max_sketch:
            asked_for = shown(given.sketch)
            yield "max-sketch", f"privacy.sketch: must be at most {self.max_sketch} (max-sketch), received {asked_for}"
        # Without an epsilon there is no noise, and delta has no meaning.
        asked = (None, None) if given.epsilon is None else (given.epsilon, given.delta)
        bounds = (
            ("epsilon", self.max_epsilon, asked[0]),
            ("delta", self.max_delta, asked[1]),
            ("total-epsilon", self.max_total_epsilon, asked[0]),
            ("total-delta", self.max_total_delta, asked[1]),
        )
        for name, most, value in bounds:
            if most is not None and (value is None or value > most):
                key = f"privacy.{name.removeprefix('total-')}"
                yield f"max-{name}", f"{key}: must be at most {most:g} (max-{name}), received {shown(value)}"

    def _may_read(self, path: Path) -> bool:
        wanted = path.expanduser().resolve()
        return any(wanted.is_relative_to(folder.expanduser().resolve()) for folder in self.data_folders)


def _beyond(values: Iterable[tuple[str, int, int, str]]) -> Iterator[Broken]:
    """Broken rules, from entries of (name of a value, value, largest value, name of the rule)."""
    for name, value, most, rule in values:
        if value > most:
            yield rule, f"{name}: must be at most {most} ({rule}), received {shown(value)}"


def _kind(name: Any) -> str:
    """The kind of a tensor in the terms of ``uploads``."""
    try:
        parsed = TensorName.parse(name)
    except (AttributeError, ValueError):
        return shown(name)
    return parsed.module if parsed.module in ("head", "anchor") else parsed.kind
