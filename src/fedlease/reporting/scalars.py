"""The figures of a run as names, values and steps, for trackers."""

from collections.abc import Iterator

from fedlease.server.events import Allocated, Event, MethodFinished, StepFinished
from fedlease.tasks.metric_words import is_further_mean

__all__ = ["few_scalars", "scalars"]

MEANS = ("mean", "weighted_mean", "own_expert_mean", "majority_mean", "bare_base_mean")

FEW = ("mean_score", "valid", "bytes_up", "bytes_down", "refused", "num_experts")


def scalars(event: Event) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every figure in an event; names begin with the method.

    A step has its mean score with the number of clients in it, every client's score and loss, bytes, seconds and
    refused updates. The allocation has the silhouette of k groups, with k as the step, and the number of experts. A
    finished method has final scores, also per task, means of further metrics, the number of clients in each mean, and
    experts per token of every adapted module. Names of metrics are their keys in the files.
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
    """The few figures of a method as a whole, whose number does not depend on clients and modules.

    A step has the mean score, the mean training loss, the value on validation rows, bytes and refused updates; the
    allocation has the number of experts; a finished method has its means.
    """
    if isinstance(event, StepFinished):
        losses = [row["loss"] for row in event.record["clients"].values() if "loss" in row]
        if losses:
            yield f"{event.method}/train_loss", sum(losses) / len(losses), int(event.record["step"])
    if isinstance(event, StepFinished | Allocated | MethodFinished):
        for name, value, step in scalars(event):
            key = name.removeprefix(f"{event.method}/")
            # names of a client, task or module have a second slash
            if key in FEW or (key.startswith("final/") and key.count("/") == 1):
                yield name, value, step
