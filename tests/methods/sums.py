"""The whole update of a client's model, adapter and residual together, as matrices."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, train

from fedlease.core.folding import fold
from fedlease.core.types import ClientModel, ClientTask, ClientUpdate, TensorName


def whole_update(model: ClientModel) -> dict[str, torch.Tensor]:
    """Module -> (alpha / r) sum over experts of B A, (out, in) float64."""
    one = fold(model, {})
    scale = one.spec.alpha / one.spec.r
    pairs = {m: [one.tensors[str(TensorName(m, kind, 0))].double() for kind in "BA"] for m in one.spec.target_modules}
    return {module: scale * b @ a for module, (b, a) in pairs.items()}


def mean_of_trained(tasks: dict[str, ClientTask], updates: list[ClientUpdate]) -> dict[str, torch.Tensor]:
    """Module -> the mean, weighted by rows, of the whole updates that the clients have after training."""
    total = sum(CLIENTS[update.client] for update in updates)
    found: dict[str, torch.Tensor] = {}
    for update in updates:
        model = tasks[update.client].model
        trained = ClientModel(model.spec, {**model.tensors, **update.tensors})
        for module, change in whole_update(trained).items():
            found[module] = found.get(module, torch.zeros(())) + change * CLIENTS[update.client] / total
    return found


def assert_exact_mean_after_every_round(method: Any) -> None:
    """Everyone's whole update is the exact mean of those that the clients had after training, in each round."""
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(4):
        tasks = {client: method.task(state, client) for client in CLIENTS}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        expected = mean_of_trained(tasks, updates)
        state = method.aggregate(state, updates)
        for client in CLIENTS:
            for module, change in whole_update(method.model(state, client)).items():
                scale = float(expected[module].abs().max())
                torch.testing.assert_close(change / scale, expected[module] / scale, atol=1e-6, rtol=0)
