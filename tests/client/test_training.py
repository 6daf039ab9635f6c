"""A client takes its rows in an order that the run's seed, its id and the round decide, and nothing else."""

from pathlib import Path

import torch

from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import ClientModel, ClientTask, Stage
from fedlease.data.federation import Row
from fedlease.models.base import initial_head, load_base, load_tokenizer, target_shapes
from fedlease.models.sources import locate
from fedlease.tasks.classification import Classification


def test_the_order_of_rows_depends_on_seed_client_and_round_alone(tmp_path: Path) -> None:
    source, task = locate("tiny-random", None, tmp_path / "base", 0), Classification(24)
    resident = ResidentModel(load_base(source, dtype="float32", dropout=False), torch.device("cpu"), None, task)
    adapter = initial_adapter(target_shapes(resident._base, None, 2), r=2, alpha=4, dropout=0.0, seed=0)
    model = ClientModel(adapter.spec, {**adapter.tensors, **initial_head(resident.head_modules(2), 0)})
    rows = task.encode([Row(f"zib {n}", None, n % 2) for n in range(8)], load_tokenizer(source))
    names = adapter.names("AB")

    def trained(seed: int, client: str, round_: int) -> list[float]:
        resident.load(model, 2)
        optimiser = Optimiser(lr=1e-2, weight_decay=0.0, batch_size=2, clip_norm=1.0, threads=1, seed=seed)
        asked = ClientTask("train", round_, model, (Stage(names, 1),), upload=names)
        update = Trainer(resident, optimiser).train(client, asked, rows).update
        return torch.cat([update.tensors[name].flatten() for name in sorted(names)]).tolist()

    first = trained(0, "a", 1)
    assert trained(0, "a", 1) == first
    others = [trained(1, "a", 1), trained(0, "b", 1), trained(0, "a", 2)]
    assert all(found != first for found in others)
