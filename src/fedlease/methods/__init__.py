"""Federated LoRA methods over one contract; :data:`METHODS` is the only table."""

__all__ = ["METHODS"]

METHODS: dict[str, str] = {
    "fedit": "fedlease.methods.fedit:FedIT",
    "fedlease": "fedlease.methods.fedlease:FedLease",
    "local": "fedlease.methods.local:Local",
}
"""Name -> ``module:class``; a class is imported when it is asked for."""
