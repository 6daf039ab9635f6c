"""Published figures in %, as they were printed, for comparison with reproduced ones.

FedLEASE: Wang, Bian, Zhang, Xu, NeurIPS 2025, https://arxiv.org/abs/2509.15087. RoBERTa-large, sixteen clients, four
each of SST-2, QNLI, MRPC and QQP, rank 4.
FedTreeLoRA: Bian, Wang, Zhang, Xu, ICML 2026, https://arxiv.org/abs/2603.13282. Twenty clients, Dirichlet 0.5, MNLI,
QNLI, SST-2 and QQP, rank 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["EXPERTS", "LABEL_SKEW", "NLG_MAIN", "NLG_WORDS", "NLU_MAIN", "NO_NUMBERS", "OVERHEAD_WORDS", "PaperRow"]


@dataclass(frozen=True)
class PaperRow:
    """A paper's figures of one variant.

    Attributes:
        mean: mean in %.
        per_task: task -> figure in %; empty if only the mean is known.
    """

    mean: float
    per_task: Mapping[str, float] = field(default_factory=dict)


def _glue(sst2: float, qnli: float, mrpc: float, qqp: float, mean: float) -> PaperRow:
    return PaperRow(mean, {"sst2": sst2, "qnli": qnli, "mrpc": mrpc, "qqp": qqp})


NLU_MAIN: Mapping[str, PaperRow] = {
    "fedlease": _glue(93.33, 87.22, 86.93, 83.57, 87.76),
    "fedit": _glue(93.33, 85.43, 76.35, 73.82, 82.23),
    "fedsa-lora": _glue(91.97, 82.70, 82.08, 81.65, 84.60),
    "feddpa": _glue(91.90, 83.13, 81.60, 81.35, 84.49),
    "ifca": _glue(92.95, 85.90, 78.63, 80.42, 84.48),
}
"""Accuracy of the language understanding table."""

EXPERTS: Mapping[str, PaperRow] = {
    "fedlease": PaperRow(87.76),
    "own-expert": PaperRow(85.91),
    "single-r4x": PaperRow(83.84),
    "single": PaperRow(82.00),
    "one-per-client": PaperRow(80.69),
}
"""Mean accuracy of the ablation of experts and selection."""

LABEL_SKEW: Mapping[str, PaperRow] = {
    "fedlease": PaperRow(91.19),
    "fedtreelora": PaperRow(92.36),
    "fedtreelora-grouping": PaperRow(91.40),
}
"""Mean over the four tasks, as FedTreeLoRA reports it."""

NLG_MAIN: Mapping[str, PaperRow] = {"fedlease": PaperRow(61.71), "fedtreelora": PaperRow(63.19)}
"""Mean ROUGE-1 of text generation, as FedTreeLoRA reports both."""

NLG_WORDS = "FedLEASE's figure is the one that FedTreeLoRA's authors report; its own paper's table is not known to us."

OVERHEAD_WORDS = "The paper: clustering takes 3.1 s and a local epoch 3.75 s, on a B200."

NO_NUMBERS = "No published figures are known to stand beside these."
