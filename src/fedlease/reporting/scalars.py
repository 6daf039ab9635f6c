"""The figures of a run as names, values and steps, as trackers take them."""

from collections.abc import Iterator

from fedlease.server.events import Allocated, Event, MethodFinished, StepFinished
from fedlease.tasks.metric_words import is_further_mean

__all__ = ["few_scalars", "scalars"]

MEANS = ("mean", "weighted_mean", "own_expert_mean", "majority_mean", "bare_base_mean")

FEW = ("mean_score", "valid", "bytes_up", "bytes_down", "refused", "num_experts")


def scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every figure in an event; names begin with the method.

    A step gives its mean score and over how many clients that is, every client's score and loss, bytes, seconds and
    refused updates; the allocation gives S(k) with k as the step, and the number of experts; a finished method gives
    final scores, per task too, means of further metrics, over how many clients each mean is, and experts per token of
    every adapted module. Metrics are called by their keys in the files.
    """
    if isinstance(event, StepFinished):
        record, step = event.record, int(event.record["step"])
        if record["mean_score"] is not None:
            yield f"{event.method}/mean_score", record["mean_score"], step
            yield f"{event.method}/mean_score_clients", record["averaged"], step
        for client, row in record["clients"].items():
            for key in ("score", "loss"):
                if key in row:
                    yield f"{event.method}/{key}/{client}", row[key], step
        for key in ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down"):
            yield f"{event.method}/{key}", record[key], step
        for key, value in record["seconds"].items():
            yield f"{event.method}/seconds/{key}", value, step
        if "valid" in record:
            yield f"{event.method}/valid", record["valid"]["mean"], step
        yield f"{event.method}/refused", len(record["refused"]), step
    elif isinstance(event, Allocated):
        for k, value in event.allocation.silhouettes.items():
            yield f"{event.method}/silhouette", value, k
        yield f"{event.method}/num_experts", event.allocation.num_experts, 0
    elif isinstance(event, MethodFinished):
        summary = event.summary
        for key, value in summary.items():
            if is_further_mean(key, value) or (key in MEANS and value is not None):
                yield f"{event.method}/final/{key}", value, 0
        yield f"{event.method}/final/clients", summary["num_clients"], 0
        for key, count in summary["means_over"].items():
            yield f"{event.method}/final/clients_in/{key}", count, 0
        for task, value in summary["per_task"].items():
            yield f"{event.method}/final/task/{task}", value, 0
        for client, modules in summary["expert_usage"].items():
            for module, entry in modules.items():
                yield f"{event.method}/experts_per_token/{client}/{module}", entry["experts_per_token"], 0


def few_scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """The figures of a method as a whole, a handful of names however many clients and modules there are.

    A step gives the mean score, the mean training loss, the value on validation rows, bytes and refused updates; the
    allocation the number of experts; a finished method its means.
    """
    if isinstance(event, StepFinished):
        losses = [row["loss"] for row in event.record["clients"].values() if "loss" in row]
        if losses:
            yield f"{event.method}/train_loss", sum(losses) / len(losses), int(event.record["step"])
    if isinstance(event, StepFinished | Allocated | MethodFinished):
        for name, value, step in scalars(event):
            key = name.removeprefix(f"{event.method}/")
            # A client, a task or a module follows a second slash.
            if key in FEW or (key.startswith("final/") and key.count("/") == 1):
                yield name, value, step
