"""A round of sixteen clients with and without secure sums, in one process.

    python benchmarks/secure_sums.py [--smoke] [--json FILE]

The clients train on one resident model and mask their updates one after another. On separate machines they would do so
at once; the remaining difference is the server's share, which has a column of its own.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from measure import Times, spread
from output import Report, Table, at_most, entry
from round import BATCH, CLIENTS, LABELS, encoded, tasks_of_round

from fedlease.client.messages import Train, Trained
from fedlease.client.resident import ResidentModel
from fedlease.client.secure_sums import Member
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.types import ClientTask
from fedlease.data.federation import ClientCard
from fedlease.models.base import load_base
from fedlease.models.sources import locate
from fedlease.server.group_sum import Rules
from fedlease.server.secure_sums import SecureSums
from fedlease.tasks.encoded import Encoded

LIMIT = 1.2
WAYS = {"plain": 0, "clusters of four": 4, "one cluster of sixteen": 1}
"""Name of a variant -> number of clusters; 0: without secure sums."""


class Clients:
    """Clients on one resident model, and the processor time that they took, in seconds."""

    def __init__(self, trainer: Trainer, tasks: Mapping[str, ClientTask], rows: Mapping[str, Encoded]) -> None:
        self.trainer, self.tasks, self.rows = trainer, tasks, rows
        self.members = {client: Member(client) for client in tasks}
        self.cards = {c: ClientCard(c, "", ("0", "1"), False, len(own), 0, 0, "") for c, own in rows.items()}
        self.seconds, self.step = 0.0, 0

    def clients(self) -> Mapping[str, ClientCard]:
        return self.cards

    def send(self, requests: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for client, request in requests.items():
            yield client, self._timed(lambda client=client, request=request: self._reply(client, request))

    def ask(self, asked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for client, ask in asked.items():
            yield client, self._timed(lambda client=client, ask=ask: self.members[client].tell(ask))

    def round(self, clusters: int) -> None:
        """Makes one round; without secure sums if there are no clusters."""
        self.step, self.seconds = self.step + 1, 0.0
        groups = {client: number % max(clusters, 1) for number, client in enumerate(self.tasks)}
        requests = {c: Train("fedlease", self.step, task, group=groups[c]) for c, task in self.tasks.items()}
        transport: Any = SecureSums(self, self, self.cards, Rules(1e-7, 1 / 3, weighted=True)) if clusters else self
        replies = dict(transport.send(requests))
        assert all(isinstance(reply, Trained) for reply in replies.values()), replies

    def _reply(self, client: str, request: Train) -> Any:
        if request.masking is not None:
            assert self.members[client].accepts(request) is None
        self.trainer.resident.load(request.task.model, LABELS)
        result = self.trainer.train(client, request.task, self.rows[client])
        reply = Trained(result.update, None, result.steps, result.seconds, 0.0)
        return reply if request.masking is None else self.members[client].masked(request, reply)

    def _timed(self, work: Callable[[], Any]) -> Any:
        begun = time.process_time()
        reply = work()
        self.seconds += time.process_time() - begun
        return reply


def measure(smoke: bool) -> Report:
    torch.set_num_threads(1)
    lines, found, raw = [], [], []
    sizes = [("tiny-random", 6, 4, 1 if smoke else 9), ("minilm", 28, 8, 5)]
    for name, tokens, r, passes in sizes[:1] if smoke else sizes:
        with tempfile.TemporaryDirectory() as folder:
            base = load_base(locate(name, None, Path(folder), 0), dtype="float32", dropout=False)
            tasks = tasks_of_round(base, False, r)
            # Plain adapters as in a warm-up: routers would add nothing to what is measured.
            tasks = {c: ClientTask("experts", 1, task.model, task.stages, task.upload) for c, task in tasks.items()}
            vocabulary = base.model.config.vocab_size  # type: ignore[union-attr]
            rows = {client: encoded(i, 32, tokens, vocabulary) for i, client in enumerate(CLIENTS)}
            trainer = Trainer(ResidentModel(base, torch.device("cpu")), Optimiser(1e-3, 0.01, BATCH, 1.0, 1, 0))
            clients = Clients(trainer, tasks, rows)
            seconds, server = ({way: list[float]() for way in WAYS} for _ in range(2))
            for number in range(passes + 1):
                for way, clusters in WAYS.items():
                    begun = time.process_time()
                    clients.round(clusters)
                    if number:  # the first round loads the base, which later ones share
                        seconds[way].append(time.process_time() - begun)
                        server[way].append(seconds[way][-1] - clients.seconds)
            timed = Times(seconds)
            values = sum(tasks[CLIENTS[0]].model.tensors[n].numel() for n in tasks[CLIENTS[0]].upload)
            for way, clusters in WAYS.items():
                ratio, alone = timed.ratio(way, "plain"), spread(server[way]).median
                lines.append([name, f"{values:,}", way, timed.of(way).text(2), ratio.text(), f"{alone:.2f}"])
                found += [ratio.median] if clusters and name == "minilm" else []
            raw.append({"model": name, "seconds": seconds, "server": server})
    table = Table(
        f"A round of {len(CLIENTS)} clients, 32 rows each, one thread",
        ["model", "values of an update", "way", "round, s", "/ plain", "server's share, s"],
        lines,
        ["Seconds of the processor: neighbours of this machine are not in them."],
    )
    targets = [at_most(f"a round with secure sums, MiniLM: at most {LIMIT} x one without", found, LIMIT)]
    return Report("What do secure sums cost?", [table], targets, {"cells": raw})


if __name__ == "__main__":
    entry("secure_sums", measure)
