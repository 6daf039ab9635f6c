"""FlexLoRA: what a client gets is the best approximation of the mean of products at its rank."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.sums import mean_of_trained, whole_update

from fedlease.core.types import Budget
from fedlease.methods.ranks import WithRanks


def test_every_client_gets_the_best_approximation_at_its_own_rank() -> None:
    method: Any = WithRanks(made("flexlora", Budget(1, 3)), 2, {"a1": 1, "b0": 1})
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(3):
        tasks = {client: method.task(state, client) for client in CLIENTS}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        mean = mean_of_trained(tasks, updates)
        state = method.aggregate(state, updates)
        for client, rank in (("a0", 2), ("a1", 1), ("b0", 1)):
            model = method.model(state, client)
            assert model.spec.r == rank
            for module, change in whole_update(model).items():
                # Eckart and Young: nothing of this rank is nearer than the largest singular values.
                s = torch.linalg.svdvals(mean[module])
                least = s[rank:].square().sum().sqrt()
                torch.testing.assert_close((change - mean[module]).norm(), least, atol=1e-5, rtol=1e-5)


def test_one_client_keeps_its_product() -> None:
    method = made("flexlora", Budget(1, 3))
    state = method.init(adapter(), {"a0": 10}, 0)
    tasks = {"a0": method.task(state, "a0")}
    updates = [train("a0", tasks["a0"], 10)]
    after = method.aggregate(state, updates)
    for module, change in whole_update(method.model(after, "a0")).items():
        torch.testing.assert_close(change, mean_of_trained(tasks, updates)[module], atol=1e-6, rtol=1e-6)
