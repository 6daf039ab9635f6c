"""FEDLEASE as a PEFT method; importing this package registers it with ``get_peft_model`` and ``PeftModel``.

All code that depends on the internals of PEFT is here.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.export import export_expert
from fedlease.peft_plugin.layer import FedLeaseLayer
from fedlease.peft_plugin.model import FedLeaseModel
from fedlease.peft_plugin.peft_type import FEDLEASE
from fedlease.peft_plugin.usage import ExpertUsage, record_usage

__all__ = [
    "FEDLEASE",
    "ExpertUsage",
    "FedLeaseConfig",
    "FedLeaseLayer",
    "FedLeaseModel",
    "export_expert",
    "record_usage",
]

if FEDLEASE not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name="fedlease", config_cls=FedLeaseConfig, model_cls=FedLeaseModel)
