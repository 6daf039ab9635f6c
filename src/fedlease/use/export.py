"""Exports experts and clients' models as folders that stock PEFT or transformers load without fedlease."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fedlease.config.tables import task_facts
from fedlease.core.folding import expert_alone, fold
from fedlease.core.types import ClientId, ClientModel, head_names
from fedlease.data.federation import ClientData, Federation
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, RunFolderError
from fedlease.files import new_folder, write_atomically
from fedlease.peft_plugin.folder import write_adapter
from fedlease.peft_plugin.usage import record_usage
from fedlease.reporting.model_card import Kind, render_card
from fedlease.runs.rows import rows_of_run
from fedlease.storage.environment import read_environment
from fedlease.storage.newcomers import read_newcomers
from fedlease.storage.run_folder import method_files, write_json
from fedlease.storage.summary import read_summary
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.prompts import Prompts, plain_template
from fedlease.use.experts import expert_model, experts_of
from fedlease.use.merged import in_own_unit, label_names, merged_into, write_merged
from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["LABELS", "SCORES", "Exporter", "Form", "Mixture"]

Form = Literal["adapter", "merged"]
Mixture = Literal["folded", "own"]
SCORES, LABELS = "scores.json", "labels.json"
PUBLIC = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[0-9A-Za-z][\w.-]{0,99})?")
"""Form of a hub repository's name, with or without a revision."""


class Exporter:
    """Writes folders that ``peft.PeftModel.from_pretrained`` or, merged, transformers' ``from_pretrained`` reads.

    Every folder has a model card ``README.md`` and ``scores.json``, the scores of the routed model, the folded one, the
    own expert alone and the merged model on the client's test rows. An adapter is ``adapter_config.json`` and
    ``adapter_model.safetensors``, with the names of labels in ``labels.json`` if there are any. A merged model is the
    whole model with its tokenizer and the names of labels. No file contains a path of this machine: a base that was
    loaded from a folder is identified by the SHA-256 of its files, unless ``base`` is given.

    Args:
        run: opened run folder.
        scores: whether to score the models on the run's rows; if not, scores are None, and average routing weights come
            from the run's summary.
        data: the rows of the run, if they were in memory.
        base: hub id from which others can load the base, ``owner/name`` or ``owner/name@revision``; None takes the
            run's if it came from the hub.

    Raises:
        ConfigError: ``base`` is no hub id.
    """

    def __init__(self, run: OpenRun, *, scores: bool = True, data: object = None, base: str | None = None) -> None:
        if base is not None and not PUBLIC.fullmatch(base):
            raise ConfigError(f"base: must be a hub id, owner/name or owner/name@revision, received {base!r}")
        self.run = run
        self.data = data
        self.kind = task_facts(run.settings.task).model
        self.scores = scores
        self._base = base

    def client(
        self,
        client: ClientId,
        out: Path,
        *,
        form: Form = "adapter",
        mixture: Mixture = "folded",
        rank: int | None = None,
    ) -> Path:
        """Exports a client's model as one adapter with its head, or merged into the base.

        Args:
            client: id of the client.
            out: folder to make.
            form: ``adapter`` or ``merged``; merged weights are stored in the run's ``dtype``.
            mixture: ``folded``: all experts, weighted by the client's average routing weights on its train rows;
                ``own``: its own expert alone.
            rank: rank of the folded adapter; None is experts x r, which loses nothing but the routing.

        Raises:
            ConfigError: there is no such client, ``out`` exists, the rank is out of range, or the base cannot be merged
                with.
            DataError: the rows cannot be read.
            RunFolderError: the rows have changed since the run.
        """
        with _made(out) as folder:
            self._client(client, folder, form, mixture, rank)
        return out

    def expert(self, expert: int, out: Path) -> Path:
        """Exports one expert, with a head only if the expert's clients share it.

        Raises:
            ConfigError: there is no such expert (the message lists the run's experts), or ``out`` exists.
        """
        with _made(out) as folder:
            self._expert(expert, folder)
        return out

    def everything(
        self, out: Path, *, form: Form = "adapter", mixture: Mixture = "folded", rank: int | None = None
    ) -> Path:
        """Exports experts to ``out/expert-<k>`` as adapters, and clients to ``out/client-<id>``; all or nothing.

        Raises:
            ConfigError: ``out`` exists, the rank is out of range, or the base cannot be merged with.
        """
        with _made(out) as folder:
            for expert in experts_of(self.run):
                self._expert(expert, folder / f"expert-{expert}")
            for client in self.run.clients:
                self._client(client, folder / f"client-{client}", form, mixture, rank)
        return out

    def _client(self, client: ClientId, folder: Path, form: Form, mixture: Mixture, rank: int | None) -> None:
        known, model = self.run.client(client), self.run.model(client)
        weights, weights_from = self._weights(client, model)
        try:
            folded = fold(model, weights, rank)
        except ValueError as error:
            raise ConfigError(f"client {client!r}: {error}") from error
        own = expert_alone(model, model.spec.own) if model.spec.routed else folded
        chosen = own if mixture == "own" else folded
        scores: dict[str, float | None] = {"routed": None, "folded": None, "own_expert": None}
        num_test = len(self._rows(client).test) if self.scores else None
        if self.scores:
            versions = {"routed": model, "folded": folded, "own_expert": own}
            scores = {name: self._score(client, version) for name, version in versions.items()}
        content: dict[str, Any] = {
            "client": client,
            "task": known.task,
            "labels": list(known.labels),
            "form": form,
            "mixture": mixture,
            "base": self._stated_base,
            "metric": self.run.task.metric,
            "num_test": num_test,
            "scores": scores,
            "rank": chosen.spec.r,
            "experts": model.spec.num_experts,
            "summed": model.spec.mixer == "sum",
            "own_expert": model.spec.own,
            "average_weights": weights,
            "average_weights_from": weights_from,
        }
        content["scale"] = None if in_own_unit(model, known.scale) else list(known.scale)
        if form == "adapter":
            chosen = in_own_unit(chosen, known.scale) or chosen
            self._write("client", folder, chosen, self.kind.peft_type, content)
        else:
            self._merge(known, folder, chosen, content)

    def _merge(self, known: KnownClient, folder: Path, model: ClientModel, content: dict[str, Any]) -> None:
        settings, tokenizer = self.run.settings, self.run.tokenizer
        if settings.base.quantisation != "none":
            raise ConfigError(
                f"form: the base was opened in {settings.base.quantisation}, and nothing can be added to packed "
                "weights; open the run with quantisation='none'"
            )
        plain = self.kind.writes and not Prompts(tokenizer, settings.generation.template).chat
        template = plain_template(tokenizer) if plain else None
        with merged_into(self.run.resident, model, len(known.labels)) as whole:
            merged = self._score(known.id, whole) if self.scores else None
            self.run.resident.load(in_own_unit(whole, known.scale) or whole, len(known.labels))
            folder.mkdir(exist_ok=True)
            names = label_names(known.labels, self.kind.problem_type)
            write_merged(folder, self.run.resident, self.run.loaded.source, tokenizer, names, template)
        content["scores"]["merged"] = merged
        self._describe("merged", folder, {**content, "dtype": settings.dtype})

    def _expert(self, expert: int, folder: Path) -> None:
        experts = experts_of(self.run)
        if expert not in experts:
            raise ConfigError(f"expert: the run has {list(experts) or 'no experts'}, received {expert}")
        members = experts[expert]
        chosen = expert_model(self.run, members[0])
        labels = self.run.client(members[0]).labels if self.run.settings.head == "shared" else None
        if labels is None:
            heads = head_names(chosen.tensors)
            chosen = ClientModel(chosen.spec, {n: t for n, t in chosen.tensors.items() if n not in heads})
        scores: dict[ClientId, float | None] = dict.fromkeys(members)
        if self.scores:
            for member in members:
                model = self.run.model(member)
                scores[member] = self._score(member, expert_alone(model, model.spec.own))
        content = {
            "expert": expert,
            "clients": members,
            "base": self._stated_base,
            "tasks": sorted({self.run.client(member).task for member in members}),
            "labels": list(labels) if labels else None,
            "metric": self.run.task.metric,
            "scores_with_each_clients_own_head": scores,
            "rank": chosen.spec.r,
        }
        # A classification expert without a head is no classifier.
        whole = labels is not None or not self.kind.head
        self._write("expert", folder, chosen, self.kind.peft_type if whole else None, content)

    def _weights(self, client: ClientId, model: ClientModel) -> tuple[dict[str, list[float]], str | None]:
        """Module -> average weight of every expert over the tokens of the client's rows, and the name of these rows."""
        if not model.spec.routed:
            return {}, None
        if not self.scores:
            summary = read_summary(method_files(self.run.out, self.run.settings, self.run.method))
            usage = None if summary is None else summary.expert_usage.get(client)
            if usage is None:
                raise ConfigError(
                    f"client {client!r}: the run's summary has no routing weights of it; export with its rows"
                )
            return {module: list(entry.weights) for module, entry in usage.items()}, "test rows of the run"
        self.run.load(client)
        with record_usage(self.run.resident.model) as used:
            # Computing the loss passes every row through the model exactly once, as averages of weights require.
            self.run.task.mean_loss(self.run.resident, self._encoded(client, "train"), self.run.threads)
        return {module: entry["weights"] for module, entry in used.summary().items()}, "train rows"

    def _score(self, client: ClientId, model: ClientModel) -> float | None:
        """The score of a model on the client's test rows; None without test rows."""
        if not self._rows(client).test:
            return None
        self.run.load(client, model)
        test = self._encoded(client, "test")
        return self.run.task.measure(self.run.resident, test, self.run.threads).metrics[self.run.task.metric]

    def _encoded(self, client: ClientId, split: str) -> Encoded:
        return self.run.encode(self._rows(client).splits[split], self.run.client(client).scale)

    def _rows(self, client: ClientId) -> ClientData:
        """The client's rows, read again and checked to be those of its training."""
        if not self.run.client(client).newcomer:
            if isinstance(self.run.saved.state, ClientModel):
                raise ConfigError(f"{self.run.out}: does not state where the rows of {client!r} are: use --no-scores")
            return self._federation.clients[client]
        settings = self.run.settings
        entry = read_newcomers(self.run.out)[client]
        if entry.data is None:
            raise RunFolderError(f"{self.run.out}: does not state where the rows of client {client!r} are")
        data = load_client(Path(entry.data), client, settings.data, settings.seed, settings.task)
        if Federation.of([data]).fingerprint() != entry.data_fingerprint:
            raise RunFolderError(f"{self.run.out}: the rows of client {client!r} have changed since it was onboarded")
        return data

    @cached_property
    def _federation(self) -> Federation:
        if self.run.settings.data.source == "memory" and self.data is None:
            raise ConfigError(
                f"export: the rows of {self.run.out} were in memory, so nothing can be measured: use --no-scores, or "
                "pass the same rows in Python, as in Exporter(run, data=ROWS)"
            )
        return rows_of_run(self.run.out, self.run.settings, self.data)

    @cached_property
    def _stated_base(self) -> dict[str, Any]:
        """The name and revision by which others can load the base, and the SHA-256 of its files."""
        source = self.run.loaded.source
        name, _, revision = (self._base or "").partition("@")
        named = (name, revision or None) if name else (source.public_name, source.revision)
        return {"name": named[0], "revision": named[1], "sha256": dict(read_environment(self.run.out).base_files or {})}

    def _write(
        self,
        kind: Literal["client", "expert"],
        folder: Path,
        model: ClientModel,
        task_type: str | None,
        content: dict[str, Any],
    ) -> None:
        base, stated = self.run.base, content["base"]
        named = {"base_model_name_or_path": stated["name"], "revision": stated["revision"]}
        write_adapter(folder, model, base.model, base.head_modules, task_type=task_type, **named)
        if content["labels"]:
            write_json(folder / LABELS, label_names(tuple(content["labels"]), self.kind.problem_type))
        self._describe(kind, folder, content)

    def _describe(self, kind: Kind, folder: Path, content: dict[str, Any]) -> None:
        write_json(folder / SCORES, content)
        how = {"tokenizer": self.run.tokenizer, "method": self.run.method, "settings": self.run.settings}
        write_atomically(folder / "README.md", render_card(kind, content, **how).encode())


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    if out.exists() or out.is_symlink():
        raise ConfigError(f"out: {out} exists; choose another folder")
    try:
        with new_folder(out) as folder:
            yield folder
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written: {error}") from error
