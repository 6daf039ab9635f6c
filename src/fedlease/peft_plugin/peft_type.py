"""Adds FEDLEASE to PEFT's enum of methods.

``peft.utils.register_peft_method`` refuses names that are not in :class:`peft.PeftType`, and an enum with members
cannot be subclassed, so the member is added as Python's own enum code does it.
"""

from peft.utils.peft_types import PeftType

__all__ = ["FEDLEASE"]


def _add_member(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType)  # type: ignore[attr-defined]
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


FEDLEASE = _add_member("FEDLEASE")
