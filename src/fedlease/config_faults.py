"""Faults of settings in our own words: key, rule, value received, nearest valid name."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

__all__ = ["nearest", "sentences", "setting_names"]

FEW = 12

RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "model_type": "must be a group of settings",
    "finite_number": "must be finite",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where one is near, and the valid names where they are few."""
    valid = sorted(names)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(valid) <= FEW:
        hint += f"{'' if near else ';'} valid: {', '.join(valid)}"
    return hint


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a model."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from setting_names(section, f"{prefix}{name}.")
        else:
            yield prefix + name


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence per fault, in the order of the settings."""
    return [_sentence(fault, model) for fault in error.errors(include_url=False)]


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    path = [str(part) for part in fault["loc"] if not str(part).startswith("constrained-")]
    key = ".".join(part for part in path if not part.isdecimal())
    kind, received, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        names = list(setting_names(model))
        last = path[-1]
        same_end = [name for name in names if name.rsplit(".", 1)[-1] == last]
        near = same_end[0] if same_end else next(iter(difflib.get_close_matches(key, names, n=1, cutoff=0.4)), None)
        return f"{key}: no such setting" + (f"; did you mean {near!r}?" if near else "")
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        return f"{key}: must be one of {', '.join(choices)}, received {received!r}" + _did_you_mean(received, choices)
    rule = RULES.get(kind)
    if rule is None:
        return f"{key}: {str(fault['msg'])[:1].lower()}{str(fault['msg'])[1:]}, received {received!r}"
    return f"{key}: {rule.format(**context)}, received {received!r}"


def _did_you_mean(received: Any, choices: list[str]) -> str:
    near = difflib.get_close_matches(str(received), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
