"""What a node lets its server ask for: rules of the node alone, which every message must meet."""

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
"""Characters of the settings in a message."""

OF_PRESETS = ("FacebookAI/roberta-large", "meta-llama/Llama-2-7b-hf")
"""Hub models that the shipped presets use."""

BOTH = "max-rank x max-experts"
MIB = 2**20

Broken = tuple[str, str]
"""The name of a rule, and a sentence for the node's log."""

Budget = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None

_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_DEVICE = re.compile(r"[a-z]{1,10}(:[0-9]{1,2})?")


class NodePolicy(Section):
    """Rules of a node; where they stand is in ``rules_file.py``."""

    models: tuple[str, ...] = (*SHORT_NAMES, *OF_PRESETS)
    """Base models that a message may name; a node with a ``model`` of its own uses that one."""
    data_folders: tuple[Path, ...] = ()
    """Folders under which ``data.path`` of a message may lie, for nodes without a ``data-dir``."""
    columns: ColumnSettings = ColumnSettings()
    """The node's own columns: rows are read by these, and a message may name these or the default ones."""
    uploads: tuple[Literal["A", "B", "G", "head"], ...] = ("A", "B", "G")
    """Kinds of tensors that may leave: LoRA A and B, G (routers, cores, differences to weights), and the head."""
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
    max_batch_tokens: Positive = 65_536
    """Rows per optimiser step times tokens of a row, which the memory for a step goes with."""
    max_threads: Positive = 256
    """CPU threads."""
    max_megabytes: Positive = 1024
    """Tensors in one message, in MiB."""
    max_upload_megabytes: Positive = 1024
    """Tensors that leave with one reply, in MiB."""
    max_runs: Positive = 100
    """Runs whose state the node stores in its ``state-dir``."""
    keep_loaded: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] = 0.0
    """Seconds for which a process with the base model stays after a message, see ``worker_process.py``."""
    send_samples: Annotated[bool, Field(strict=True)] = False
    """Whether some test rows may go to the server in clear text, with the models' answers."""
    max_samples: Annotated[int, Field(ge=0)] = 10
    """Such rows per method."""
    max_epsilon: Budget = None
    """Differential privacy is demanded, with at most this ``privacy.epsilon`` for a run; None: it is not demanded."""
    max_delta: Budget = None
    """Likewise for ``privacy.delta``."""
    max_total_epsilon: Budget = None
    """Likewise for the sum over all runs on these rows, see ``privacy_budget.py``."""
    max_total_delta: Budget = None
    """Likewise for the sum of ``privacy.delta``."""
    secure_sums: Annotated[bool, Field(strict=True)] = False
    """Whether ``privacy.secure_sums`` is demanded: no update after the warm-up leaves without masks."""
    max_sketch: Positive | None = None
    """Whether ``privacy.sketch`` is demanded, with at most so many numbers; None: a warm-up may leave as it is."""

    def applied(self, settings: Settings, *, with_path: bool) -> Settings:
        """The settings as the node uses them: its own columns, and ``data.path`` only where the node reads it."""
        data = settings.data.model_copy(update={"columns": self.columns})
        return settings.model_copy(update={"data": data if with_path else data.model_copy(update={"path": None})})

    def check(self, message: Envelope, settings: Settings, *, own_model: bool, own_rows: bool) -> None:
        """Checks what a message asks for.

        Args:
            message: from the server, of the right form.
            settings: that it holds.
            own_model: whether the node's configuration names the model.
            own_rows: whether the node's configuration says where the rows are.

        Raises:
            RulesError: it breaks rules; with a sentence for each.
        """
        found = [*self._of_settings(settings, own_model=own_model, own_rows=own_rows)]
        if not is_identity(message.run):
            found.append(("run", f"run: must be 32 hexadecimal digits, received {shown(message.run)!r}"))
        if message.request is not None:
            found += self._of_request(message.request)
        if found:
            raise RulesError([*dict.fromkeys(found)])

    def check_client(self, rank: int, labels: tuple[str, ...]) -> None:
        """Checks what only the node knows of its client.

        Args:
            rank: that its adapter is to have.
            labels: of its rows, which leave with its card.

        Raises:
            RulesError: it breaks a rule.
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
        """Checks what is about to leave, as it travels.

        Raises:
            RulesError: it is more than a rule says.
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
                # A whole number in each module may come to a few more.
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
                # Experts that are summed are one update, however they are cut.
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
            said = f"data.path: this node reads rows in its own folders alone (data-folders), received {path!r}"
            yield "data-folders", said
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
        """What is demanded of ``privacy.*``; a run without privacy has neither epsilon nor delta."""
        given = settings.privacy
        if self.secure_sums and not given.secure_sums:
            yield "secure-sums", "privacy.secure_sums: must be true (secure-sums), received False"
        if self.max_sketch is not None and not 0 < (given.sketch or 0) <= self.max_sketch:
            asked_for = shown(given.sketch)
            yield "max-sketch", f"privacy.sketch: must be at most {self.max_sketch} (max-sketch), received {asked_for}"
        # Without an epsilon there is no noise, whatever delta is.
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
    """Broken rules, for values, named, that are above their bound, which belongs to a rule."""
    for name, value, most, rule in values:
        if value > most:
            yield rule, f"{name}: must be at most {most} ({rule}), received {shown(value)}"


def _kind(name: Any) -> str:
    """The kind of a tensor by its name, as ``uploads`` has it."""
    try:
        parsed = TensorName.parse(name)
    except (AttributeError, ValueError):
        return shown(name)
    return parsed.module if parsed.module in ("head", "anchor") else parsed.kind
