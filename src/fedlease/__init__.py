"""FedLEASE: federated fine-tuning with adaptive LoRA experts."""

from fedlease._version import __version__

__all__ = ["__version__"]
