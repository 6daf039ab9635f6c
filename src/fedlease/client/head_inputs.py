"""Standardised inputs of heads, with which a head learns under the noise of differential privacy.

What a pretrained model computes of any text has a large part in common: of MiniLM's pooled features, whose length is
1.3, this part has a length of 1.05, and two classes of SST-2 are 0.09 apart. Noise along the common part shifts the
outputs of all rows alike, and such shifts take many steps to undo. So the first linear layer of a head is trained in
the coordinates that it would have if its inputs had mean 0 and standard deviation 1. Mean and deviation are those of
random texts, so they reveal nothing about any row, and every client computes the same ones.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedlease.client.resident import ResidentModel
from fedlease.core.seeds import generator
from fedlease.core.types import HEAD
from fedlease.data.federation import Row
from fedlease.errors import DataError
from fedlease.tasks.encoded import collate
from fedlease.tasks.texts import Texts

__all__ = ["HeadInputs", "head_inputs_of"]

TEXTS, TOKENS = 64, 32
"""Number of random texts, and of random tokens in each."""


@dataclass(frozen=True)
class HeadInputs:
    """The inputs x of the first linear layer, y = W x + b, of all heads of a model.

    With z = (x - mean) / deviation, y = V z + c, where V = deviation W and c = b + W mean.

    Attributes:
        weight: name of W, ``head/<parameter>``.
        bias: name of b; None for a layer without one, for which ``mean`` is 0.
        mean: of x, (in,).
        deviation: root mean square over all values of x - mean, above 0.
    """

    weight: str
    bias: str | None
    mean: Tensor
    deviation: float

    def standard(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """V and c by the names of W and b.

        Args:
            values: W, (outputs, in), and b, (outputs,), by name; others are ignored.
        """
        found = {self.weight: values[self.weight] * self.deviation}
        if self.bias is not None:
            found[self.bias] = values[self.bias] + values[self.weight] @ self.mean
        return found

    def plain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W and b by name, of V and c by the names of W and b."""
        found = {self.weight: values[self.weight] / self.deviation}
        if self.bias is not None:
            found[self.bias] = values[self.bias] - found[self.weight] @ self.mean
        return found

    def gradients(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of rows, with those for V in place of those for W; the gradients for c are those for b.

        Args:
            found: name -> gradients, (rows, *shape), including W and b.
        """
        of_weight = found[self.weight]
        if self.bias is not None:
            of_weight = of_weight - found[self.bias].unsqueeze(-1) * self.mean
        return {**found, self.weight: of_weight / self.deviation}

    def among(self, names: Container[str]) -> bool:
        """Whether the layer's parameters are among these names."""
        return self.weight in names and (self.bias is None or self.bias in names)


def head_inputs_of(resident: ResidentModel, tokenizer: Any, max_tokens: int) -> HeadInputs | None:
    """Measures the inputs of the heads of a model; None for a model without a head, or with one without linear layers.

    It is also None if the tokenizer makes no token of any random text.

    Args:
        resident: provides the base model; its adapter is unloaded.
        tokenizer: of the model.
        max_tokens: longest text that the model reads.
    """
    modules, model = resident.head_modules(1), resident.unwrapped()
    layers = {
        f"{HEAD}/{name}.{path}".rstrip("."): layer
        for name, module in modules.items()
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    if not layers:
        return None
    seen: list[tuple[str, Tensor]] = []
    resident.use_head(modules)
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[0])))
        for name, layer in layers.items()
    ]
    model.eval()
    inputs = list[Tensor]()
    first = ""
    try:
        with torch.no_grad():
            for text in random_texts(tokenizer):
                try:
                    rows = Texts(min(max_tokens, 2 * TOKENS)).encode([Row(text, None, 0)], [0], tokenizer)
                except DataError:  # the tokenizer makes no token of it
                    continue
                resident.logits_of(model, collate(rows, [0], resident.device)[0])
                first, values = seen[0]
                # Where a layer receives all tokens, the model reads the last one.
                inputs.append(values.flatten(0, -2)[-1].float())
                seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    if not inputs:
        return None
    found = torch.stack(inputs)
    layer = layers[first]
    mean = found.mean(0) if layer.bias is not None else torch.zeros_like(found[0])
    deviation = math.sqrt(float((found - mean).square().mean()))
    return HeadInputs(f"{first}.weight", f"{first}.bias" if layer.bias is not None else None, mean, deviation or 1.0)


def random_texts(tokenizer: Any) -> list[str]:
    """Texts of tokens that are drawn at random, the same ones for everyone with this tokenizer."""
    special, drawn = set(tokenizer.all_special_ids), generator(0, "head inputs")
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    if not ordinary:
        return []
    places = torch.randint(len(ordinary), (TEXTS, TOKENS), generator=drawn).tolist()
    texts = [tokenizer.decode([ordinary[place] for place in row]) for row in places]
    return [text for text in texts if text.strip()]
