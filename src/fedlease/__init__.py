"""FedLEASE: federated fine-tuning with adaptive LoRA experts.

import fedlease

result = fedlease.run("quickstart")             # or fedlease.run({"data.path": "my-federation"})
model = fedlease.load(result.out, "topic-0")    # an ordinary PEFT model
tokenizer = fedlease.tokenizer(result.out)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from fedlease._version import __version__

if TYPE_CHECKING:
    from fedlease.config.settings import Settings
    from fedlease.errors import FedLeaseError
    from fedlease.experiments.calls import compare
    from fedlease.use.calls import export, onboard, predict, score
    from fedlease.use.load import load, tokenizer
    from fedlease.use.run import RunResult, check, resume, run

__all__ = [
    "FedLeaseError",
    "RunResult",
    "Settings",
    "__version__",
    "check",
    "compare",
    "export",
    "load",
    "onboard",
    "predict",
    "resume",
    "run",
    "score",
    "tokenizer",
]

# The threads of GNU OpenMP, which torch brings on Linux, wait for each other in loops, by default for so long that
# they take the processor from each other where anything else runs too. The variable is read when torch is loaded.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "20000"

# Resolved on first use, so that ``import fedlease`` needs no torch.
_WHERE = {
    "FedLeaseError": "fedlease.errors",
    "RunResult": "fedlease.use.run",
    "Settings": "fedlease.config.settings",
    "check": "fedlease.use.run",
    "compare": "fedlease.experiments.calls",
    "export": "fedlease.use.calls",
    "load": "fedlease.use.load",
    "onboard": "fedlease.use.calls",
    "predict": "fedlease.use.calls",
    "resume": "fedlease.use.run",
    "run": "fedlease.use.run",
    "score": "fedlease.use.calls",
    "tokenizer": "fedlease.use.load",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fedlease' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
