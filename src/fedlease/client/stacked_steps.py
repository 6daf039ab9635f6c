"""The optimisers of several clients and the terms in their losses, over the rows of one block."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fedlease.client.block import Block
from fedlease.client.halves import SecondHalf
from fedlease.client.training import Optimiser
from fedlease.core.types import ClientTask, TensorName, Tensors

__all__ = ["StackedAdamW", "stacked_term"]


class StackedAdamW:
    """AdamW over the rows of a block; clients with equally many steps are one parameter group."""

    def __init__(self, values: Tensor, totals: Sequence[int], options: Optimiser, second: Tensor | None = None) -> None:
        """Makes the optimiser.

        Args:
            values: a row per client; clients with more steps come first.
            totals: number of steps of every client.
            options: of the optimiser.
            second: part of ``values`` that the second half of each client's rows has added so far; None without halves.
        """
        self._parameters: list[tuple[slice, nn.Parameter]] = []
        rates: list[Callable[[int], float]] = []
        for total in dict.fromkeys(totals):
            begin = totals.index(total)
            place = slice(begin, begin + totals.count(total))
            self._parameters.append((place, nn.Parameter(values[place])))
            rates.append(options.rate(total))
        groups = [{"params": [parameter]} for _, parameter in self._parameters]
        adamw = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay, fused=True)
        self._schedule = LambdaLR(adamw, rates)
        self._second = None
        if second is not None:
            places, parameters = zip(*self._parameters, strict=True)
            self._second = SecondHalf(parameters, [second[place] for place in places])

    def step(self, gradients: Tensor, halves: Sequence[int]) -> None:
        """Makes a step for the first clients, those with gradients, and updates the learning rate.

        Args:
            gradients: a row per client.
            halves: the half of every client's batch.
        """
        for place, parameter in self._parameters:
            parameter.grad = gradients[place] if place.stop <= len(gradients) else None
        self._schedule.optimizer.step()
        if self._second is not None:
            shares = torch.tensor(halves, dtype=gradients.dtype).to(gradients.device, non_blocking=True).unsqueeze(1)
            self._second.follow(self._schedule.optimizer, [shares[place] for place, _ in self._parameters])
        self._schedule.step()

    @property
    def second(self) -> Tensor | None:
        """The part that the second half of each client's rows has added; None without halves."""
        return None if self._second is None else torch.cat(self._second.part)


def stacked_term(
    tasks: Sequence[ClientTask], names: Sequence[Mapping[str, str]], received: Sequence[Tensors], trained: Block
) -> Callable[[Tensor], None] | None:
    """A function that adds the gradients of the tasks' terms to those of the first clients; None without terms.

    See :class:`fedlease.core.local_term.LocalTerm`. If the terms only have a slope, some tasks may have no term.

    Args:
        tasks: one per client, of one layout.
        names: per client, name of a tensor -> its name by slot.
        received: each client's tensors before training.
        trained: the trained tensors, by slot.
    """
    term = next((task.term for task in tasks if task.term is not None), None)
    if term is None:
        return None
    own = [{to[name]: tensor for name, tensor in each.items()} for to, each in zip(names, received, strict=True)]
    slopes = []
    for task, to, tensors in zip(tasks, names, own, strict=True):
        slope = {} if task.term is None else {to[name]: tensor for name, tensor in task.term.slope.items()}
        slopes.append({name: slope.get(name, torch.zeros_like(tensors[name])) for name in trained.names})
    start, slope_of = (Block(each, trained.names, trained.values.device).values for each in (own, slopes))
    uploaded = {names[0][name] for name in tasks[0].upload}
    pulled = uploaded.intersection(trained.names)
    pull = trained.mask(dict.fromkeys(pulled, term.pull))
    others = [name for name in own[0] if name not in trained.names and TensorName.parse(name).kind == "B"]
    frozen = Block(own, others if term.apart else (), trained.values.device)

    def add(gradients: Tensor) -> None:
        clients = len(gradients)
        gradients += pull * (trained.values[:clients] - start[:clients]) + slope_of[:clients]
        if term.penalises:
            values = {name: block.view(name, clients) for block in (trained, frozen) for name in block.names}
            for name, more in term.penalties(values, trained.names, pulled):
                trained.view(name, clients, gradients).add_(more)

    return add
