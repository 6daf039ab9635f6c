"""Writes a client's own model on its own machine: a folder for PEFT that is also a run folder of this one client."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlease.client.messages import FinalScores
from fedlease.core.types import ClientModel
from fedlease.data.federation import ClientData
from fedlease.errors import RunFolderError
from fedlease.files import new_folder, write_atomically
from fedlease.models.sources import ModelSource
from fedlease.peft_plugin.folder import CONFIG, WEIGHTS, write_adapter
from fedlease.reporting.model_card import render_card
from fedlease.runs.machine import resolve_machine
from fedlease.runs.open import Loaded
from fedlease.storage.class_scores import ClassScores
from fedlease.storage.predictions import lines_of, write_predictions
from fedlease.storage.run_files import RunFiles
from fedlease.storage.run_folder import read_clients, start_run
from fedlease.storage.summary import ClientScores, Summary

__all__ = ["write_own_model"]


def write_own_model(
    out: Path,
    loaded: Loaded,
    data: ClientData,
    method: str,
    model: ClientModel,
    scores: FinalScores,
    run: str,
    predictions: Mapping[str, list[Any]] | None = None,
) -> None:
    """Writes the model of a client, with private tensors and head; the folder appears complete or not at all.

    Args:
        out: folder to make; an earlier model of this client there is replaced.
        loaded: settings and base model.
        data: the client's rows, of which labels, counts and a SHA-256 are written.
        method: the method that trained the model.
        model: the model as it was scored, with private tensors and without candidates.
        scores: scores of the model.
        run: identity of the run.
        predictions: predictions for the test rows, as a worker has them; None writes none.

    Raises:
        RunFolderError: ``out`` is something else, such as another client's model, or cannot be written.
        OSError, SafetensorError: it cannot be written.
    """
    settings = resolve_machine(loaded.settings.model_copy(update={"method": method, "baselines": ()}))
    base, task, card = loaded.base, loaded.resident.task, data.card()
    public = ModelSource(settings.model, settings.model, settings.revision).public_name
    # The configuration may name any folder; only a model of this client may be replaced.
    if out.exists() and (not (out / CONFIG).is_file() or [*read_clients(out)] != [data.id]):
        raise RunFolderError(f"{out} holds something other than a model of {data.id!r}; choose another folder")
    with new_folder(out, replace=True) as folder:
        start_run(
            folder,
            settings,
            {data.id: card},
            card.fingerprint,
            loaded.base.warnings,
            # so that opening the folder later need not write anything
            made=loaded.made,
            identity=run,
            base_files=loaded.base_files,
        )
        write_adapter(
            folder,
            model,
            base.model,
            base.head_modules,
            task_type=base.kind.peft_type,
            base_model_name_or_path=public,
            revision=settings.revision,
        )
        # The model already has the chosen candidate.
        values = ClientScores(**replace(scores, choice=None).row(data.task))
        summary = Summary(
            method=method,
            metric=task.metric,
            learnt=settings.task,
            per_client={data.id: values} if scores.num_test else {},
            classes={data.id: ClassScores.of(scores.confusion, data.labels)} if scores.confusion else {},
            expert_usage={} if scores.usage is None else {data.id: dict(scores.usage)},
        )
        files = RunFiles(folder)
        files.expect({name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)})
        if settings.keep_predictions:
            write_predictions(files, lines_of(data, predictions or {}, None))
        files.write_json("summary.json", summary.content)
        content = {
            "client": data.id,
            "task": data.task,
            "labels": list(data.labels),
            "form": "routed",
            "base": {"name": public, "revision": settings.revision},
            "metric": task.metric,
            "num_test": scores.num_test,
            "scores": {"routed": scores.metrics.get(task.metric), "own_expert": scores.own_expert},
            "experts": model.spec.num_experts,
            "summed": model.spec.mixer == "sum",
            # for readers other than fedlease, which reads the scale from clients.json
            "scale": card.scale,
            "plugin": model.spec.mixer != "none",
        }
        tokenizer = loaded.tokenizer
        text = render_card("client", content, tokenizer=tokenizer, method=method, settings=settings)
        write_atomically(folder / "README.md", text.encode())
