"""Tiny random models, and the forward pass of the paper written as plain loops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from fedlease.peft_plugin import FedLeaseConfig, FedLeaseLayer
from fedlease.peft_plugin.state import adapter_parameters, wrap

TARGETS = {"bert": ["query", "value"], "roberta": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}
SEQ_CLS = ("bert", "roberta")
ALL = tuple(TARGETS)


def base(kind: str = "bert", *, layers: int = 2, seed: int = 0, **more: Any) -> PreTrainedModel:
    """Width 16, vocabulary 40, dropout 0, in eval mode; ``more`` goes to the configuration."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}
    small |= {"intermediate_size": 24, "max_position_embeddings": 40, **more}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
    if kind == "bert":
        model: PreTrainedModel = BertForSequenceClassification(BertConfig(**small, **still))
    elif kind == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**small, **still, pad_token_id=1))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**small, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    else:
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        ends = {"bos_token_id": 1, "eos_token_id": 2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=layers, n_head=2, **still, **ends, **more))
    return model.eval()


def config(kind: str = "bert", **settings: Any) -> FedLeaseConfig:
    task = "SEQ_CLS" if kind in SEQ_CLS else "CAUSAL_LM"
    return FedLeaseConfig(**{"r": 2, "num_experts": 3, "target_modules": TARGETS[kind], "task_type": task, **settings})


def mixture(kind: str = "bert", *, layers: int = 2, seed: int = 0, **settings: Any) -> PeftModel:
    """A PEFT model whose experts and routers are random, B too."""
    model = wrap(base(kind, layers=layers, seed=seed), config(kind, **settings))
    randomise(model, seed=seed)
    return model.eval()


@torch.no_grad()
def randomise(model: PeftModel, adapter_name: str = "default", *, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, adapter_name).values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))


def load(model: nn.Module, folder: Path, **settings: Any) -> PeftModel:
    return PeftModel.from_pretrained(model, str(folder), **settings).eval()


def checkpoint(model: PeftModel, *, reentrant: bool) -> None:
    """Switches gradient checkpointing on; transformers 5 renames the method."""
    model.enable_input_require_grads()
    plain = model.get_base_model()
    enable = getattr(plain, "activation_checkpointing_enable", None) or plain.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def tokens(rows: int = 3, length: int = 5, *, seed: int = 1) -> Tensor:
    """(rows, length) ids of ordinary words."""
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor, **inputs: Any) -> Tensor:
    return model(input_ids=ids, **inputs).logits


def layer(
    features_in: int = 12, features_out: int = 10, *, seed: int = 0, bias: bool = True, **settings: Any
) -> FedLeaseLayer:
    """A routed layer around a frozen linear one, with random experts and router."""
    torch.manual_seed(seed)
    linear = nn.Linear(features_in, features_out, bias=bias).requires_grad_(False)
    settings = {"r": 3, "num_experts": 3, "target_modules": ["x"], **settings}
    routed = FedLeaseLayer(linear, "default", FedLeaseConfig(**settings))
    with torch.no_grad():
        for tensor in [*routed.stack_a("default"), *routed.stack_b("default"), *routed.fedlease_router.values()]:
            tensor.copy_(torch.randn_like(tensor))
    return routed


def slot_experts(num_experts: int, own: int) -> list[int]:
    """The expert that each of the 2M - 1 slots points to."""
    return [own] * num_experts + [e for e in range(num_experts) if e != own]


def loop_weights(slot_logits: Tensor, num_experts: int, own: int, top_k: int | None, renormalise: bool) -> Tensor:
    """The paper's equations for one token at a time: (tokens, 2M - 1) -> weight of every slot."""
    keep_count = num_experts if top_k is None else top_k
    rows = []
    for row, values in zip(slot_logits, slot_logits.tolist(), strict=True):
        probability = [value.exp() for value in row - row.max()]
        total = sum(probability[1:], start=probability[0])
        order = sorted(range(len(row)), key=lambda slot, values=values: (-values[slot], slot))  # ties to the lower slot
        kept = sorted(order[:keep_count])
        weights = [probability[s] / total if s in kept else torch.zeros_like(total) for s in range(len(row))]
        if renormalise:
            norm = sum((weights[s] for s in kept[1:]), start=weights[kept[0]])
            weights = [weight / norm for weight in weights]
        rows.append(torch.stack(weights))
    return torch.stack(rows)


def loop_forward(
    x: Tensor,
    linear: nn.Module,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    router: Tensor | None,
    *,
    own: int,
    scaling: float,
    top_k: int | None = None,
    renormalise: bool = True,
    dropped: Tensor | None = None,
    slot_logits: Tensor | None = None,
) -> Tensor:
    """y = W0 x + (alpha / r) sum over kept slots s of p_s B_e(s) A_e(s) x, slot by slot.

    ``dropped`` is x after dropout, for the experts only; ``slot_logits`` replaces G x.
    """
    flat = x.reshape(-1, x.shape[-1])
    to_experts = flat if dropped is None else dropped.reshape(flat.shape)
    result = linear(x)
    if router is None:
        update = F.linear(F.linear(to_experts, a[0]), b[0])
    else:
        slot_logits = F.linear(flat.float(), router.float()) if slot_logits is None else slot_logits
        weights = loop_weights(slot_logits, len(a), own, top_k, renormalise)
        update = torch.zeros(len(flat), b[0].shape[0], dtype=b[0].dtype)
        for slot, expert in enumerate(slot_experts(len(a), own)):
            contribution = F.linear(F.linear(to_experts, a[expert]), b[expert])
            update = update + weights[:, slot : slot + 1].to(contribution.dtype) * contribution
    return result + (scaling * update).view_as(result).to(result.dtype)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    actual, expected = actual.detach().float(), expected.detach().float()
    return float((actual - expected).abs().max() / expected.abs().max())
