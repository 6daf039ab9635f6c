"""Faults of settings as sentences: key, rule, value received, nearest valid name."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedlease.config.added_sections import section_of
from fedlease.config.layers import group_of
from fedlease.config.privacy import GROUPING, privacy_faults, sketch_faults, sum_faults, variant_of
from fedlease.config.sections import ranks_differ
from fedlease.config.tables import LABELLED, known_sources, known_tasks
from fedlease.core.choices import PLUS, ServerRule
from fedlease.core.wording import printable
from fedlease.methods.facts import steps
from fedlease.methods.registry import CENTRALISED, OTHER_NAMES, UNEQUAL_RANKS, known_methods

__all__ = ["cross_faults", "nearest", "nearest_method", "not_installed", "sentences", "setting_names"]

FEW = 12
"""Most valid names that are listed."""

NEAR = 0.6
"""Smallest similarity of two names, at most 1, for suggesting one instead of the other."""

LONG = 80
"""Most characters of a received value that are shown."""

RULES = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "not_a_switch": "must not be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "too_short": "must name at least {min_length}",
    "path_type": "must be a path",
    "model_type": "must be a group of settings",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: ``"; did you mean 'x'?"`` if one is similar, and the valid names if they are few."""
    valid = sorted(names)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=NEAR)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(valid) <= FEW:
        hint += f"{'' if near else ';'} valid: {', '.join(valid)}"
    return hint


def nearest_method(name: str) -> str:
    """A hint for an unknown method, see :func:`nearest`, which also knows names in other projects, such as FedAvg."""
    known = known_methods()
    plain = name.lower().replace("_", "-").replace(" ", "-")
    other = plain if plain in known else OTHER_NAMES.get(plain)
    if other is not None:
        return f"; it is called {other!r} here"
    return nearest(name, known) or "; fedlease methods lists all"


def not_installed(values: Any) -> list[str]:
    """A sentence for every method in resolved settings that is not installed."""
    values, known = values if isinstance(values, Mapping) else {}, known_methods()
    absent = [name for name in _names([values.get("method"), *_names(values.get("baselines"))]) if name not in known]
    return [
        f"its method {name!r} is not installed here: install the package that adds it{nearest_method(name)}"
        for name in absent
    ]


def setting_names(model: type[BaseModel], prefix: str = "", *, text: bool = False) -> Iterator[str]:
    """Yields the dotted names of all settings of a model or, with ``text``, of those that take any text or path."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from setting_names(kind, f"{prefix}{name}.", text=text)
        elif not text or ({kind, *get_args(kind)} & {str, Path} and set(get_args(kind)) <= {str, Path, type(None)}):
            yield prefix + name


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence per fault, in the order of the settings."""
    faults = error.errors(include_url=False)
    # Pydantic counts only valid members of a list as its length; invalid ones have sentences of their own.
    return [_sentence(fault, model) for fault in faults if fault["type"] != "too_short" or not fault["input"]]


def cross_faults(raw: Mapping[str, Any]) -> list[str]:
    """Checks rules between settings, and names of tables; it uses raw values, so that all faults are found at once."""
    faults, known = [], known_methods()
    method, baselines = raw.get("method", "fedlease"), _names(raw.get("baselines"))
    data = raw.get("data", {})
    data = data if isinstance(data, Mapping) else {"source": None}
    tasks, categories = _names(data.get("tasks")), _names(data.get("categories"))
    for key, named in (("baselines", baselines), ("data.tasks", tasks), ("data.categories", categories)):
        faults += [f"{key}: {name!r} is named twice" for name in sorted({n for n in named if named.count(n) > 1})]
    if method in baselines:
        faults.append(f"baselines: {method!r} is the method itself")
    for key, names in (("method", _names([method])), ("baselines", baselines)):
        faults += [f"{key}: unknown method {n!r}{nearest_method(n)}" for n in names if n not in known]
    source, path = data.get("source", "folder"), data.get("path")
    read = known_sources()[source].path if isinstance(source, str) and source in known_sources() else "optional"
    if read == "required" and path is None:
        faults.append(f"data.path: is required when data.source is {source!r}: the folder or file that holds your rows")
    if read == "not read" and path is not None:
        faults.append(f"data.path: is not read when data.source is {source!r}; leave one of them out")
    for name in GROUPING:
        faults += _variant_faults(name, raw)
    faults += _rank_faults(raw, [name for name in _names([method, *baselines]) if name in known])
    faults += _step_faults(raw, method)
    faults += _task_faults(raw)
    faults += privacy_faults(raw)
    faults += sum_faults(raw)
    faults += sketch_faults(raw)
    sampled, needed = raw.get("clients_per_round"), raw.get("min_clients", 1)
    if isinstance(sampled, int) and isinstance(needed, int) and needed > sampled >= 1:
        faults.append(f"min_clients: must be at most clients_per_round = {sampled}, received {needed}")
    return faults


def _task_faults(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of settings that do not fit the task."""
    task, metric, train = raw.get("task", "classification"), raw.get("metric"), group_of(raw, "train")
    facts = known_tasks().get(task) if isinstance(task, str) else None
    if facts is None:
        return
    if isinstance(metric, str) and metric not in facts.metrics:
        if facts.metrics:
            choices = f"must be one of {', '.join(facts.metrics)}"
            yield f"metric: {choices} when task is {task!r}, received {_shown(metric)}" + _did_you_mean(
                metric, [*facts.metrics]
            )
        else:
            yield f"metric: is not read when task is {task!r}, which has one; leave it out"
    weights = train.get("class_weights", "none")
    if group_of(raw, "base").get("skip_unread") is True and train.get("gradient_checkpointing") is True:
        yield "train.gradient_checkpointing: must be false when base.skip_unread is true, received true"
    if weights == "balanced" and facts.rows not in LABELLED:
        yield f"train.class_weights: must be none when task is {task!r}, whose rows have no labels, it is {weights!r}"


def _variant_faults(method: str, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields faults of settings of FedLEASE or FedLEASE+ that do not fit together."""
    section, variant = section_of(method), variant_of(raw, method)
    grouping, given = variant.get("grouping", "clusters"), variant.get("assignment")
    if grouping == "random" and variant.get("num_experts") is None:
        yield f"{section}.num_experts: is required when {section}.grouping is 'random'"
    if grouping in ("clients", "given") and variant.get("num_experts") is not None:
        yield f"{section}.num_experts: is not read when {section}.grouping is {grouping!r}; leave it out"
    if grouping == "given" and given is None:
        yield f"{section}.assignment: is required when {section}.grouping is 'given': client -> group"
    if grouping != "given" and given is not None:
        yield f"{section}.assignment: is only read when {section}.grouping is 'given', it is {grouping!r}"
    if variant.get("reallocate") is not None and grouping not in ("clusters", "similarity"):
        needed = f"{section}.grouping = 'clusters' or 'similarity'"
        yield f"{section}.reallocate: needs {needed}, it is {grouping!r}"
    if grouping == "similarity" and not variant.get("halves"):
        yield f"{section}.halves: must be true when {section}.grouping is 'similarity'"
    if variant.get("halves") and variant.get("reallocate") is not None and grouping == "clusters":
        yield f"{section}.halves: must be false when clusters are formed again ({section}.reallocate)"
    # The default of FedLEASE+ may stand beside settings under which clients do not compare.
    if variant.get("unsure", "alone") != "alone" and method != "fedlease-plus":
        for key, default, needed in (("grouping", "clusters", "similarity"), ("routing", "top-m", "own")):
            if (value := variant.get(key, default)) != needed:
                yield f"{section}.unsure: needs {section}.{key} = {needed!r}, it is {_shown(value)}"
    if variant.get("signal") == "A" and grouping == "similarity":
        yield f"{section}.signal: must be 'B' or 'BA' for {section}.grouping = 'similarity', received 'A'"


def _rank_faults(raw: Mapping[str, Any], methods: Sequence[str]) -> Iterator[str]:
    """Yields faults of methods that do not allow unequal ranks with their settings."""
    ranks = group_of(group_of(raw, "lora"), "r")
    if not ranks_differ(ranks):
        return
    for name in methods:
        if name not in UNEQUAL_RANKS:
            able = ", ".join(name for name in UNEQUAL_RANKS if name != CENTRALISED)
            received = ", ".join(map(repr, dict.fromkeys(ranks.values())))
            yield (
                f"lora.r: {name} averages A and B, which must have one rank; unequal ranks are allowed for {able}; "
                f"received the ranks {received}"
            )
            continue
        section = section_of(name)
        for key, value in UNEQUAL_RANKS[name].items():
            given = group_of(raw, section).get(key)
            if given != value and not (given is None and name == "fedlease-plus" and PLUS[key] == value):
                yield (
                    f"{section}.{key}: must be {value} if lora.r differs between clients, since only products B A can "
                    "then be compared and averaged" + f", received {given!r}" * (given is not None)
                )


def _step_faults(raw: Mapping[str, Any], method: Any) -> Iterator[str]:
    """Yields a fault if the server should step towards means that the method does not have."""
    rule = group_of(raw, "server_step").get("rule", "none")
    if rule not in get_args(ServerRule) or rule == "none" or method not in known_methods():
        return
    section = section_of(str(method))
    why = "" if steps(method) else "has no mean of A and B that a server could step towards"
    if method in GROUPING and variant_of(raw, str(method)).get("average") == "product":
        why = f"has means of products, whose A and B turn from round to round: set {section}.average: factors"
    if why:
        yield f"server_step.rule: must be none, since {method} {why}, received {_shown(rule)}"


def _names(value: Any) -> list[str]:
    """The names in a list; other members have faults of their own."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return [name for name in value if isinstance(name, str)] if listed else []


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    # List positions are numbers; a name may consist of digits.
    path = [part for part in fault["loc"] if isinstance(part, str) and part != "[key]"]
    key = ".".join(path)
    kind, received, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: no such setting{_near_setting(path, model)}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        rule = f"must be one of {', '.join(choices)}" if len(choices) > 1 else f"must be {choices[0]}"
        return f"{key}: {rule}, received {_shown(received)}" + _did_you_mean(str(received), choices)
    message = str(fault["msg"]).removeprefix("Value error, ")
    rule = RULES.get(kind, f"{message[:1].lower()}{message[1:]}")
    one = kind == "tuple_type" and isinstance(received, str) and received
    remedy = f"; write [{received}]" if one and len(received) <= LONG else ""
    return f"{key}: {rule.format(**context)}, received {_shown(received)}{remedy}"


def _shown(value: Any) -> str:
    return printable(repr(value).replace("\n", " "), longest=LONG)


def _near_setting(path: list[str], model: type[BaseModel]) -> str:
    names = list(setting_names(model))
    same_end = [name for name in names if name.rsplit(".", 1)[-1] == path[-1]]
    if same_end:
        return f"; did you mean {difflib.get_close_matches('.'.join(path), same_end, n=1, cutoff=0.0)[0]!r}?"
    if hint := _did_you_mean(".".join(path), names):
        return hint
    group = ".".join([*path[:-1], ""])
    siblings = sorted({name.removeprefix(group).split(".")[0] for name in names if name.startswith(group)})
    return f"; valid in {group[:-1]}: {', '.join(siblings)}" if group and len(siblings) <= FEW else ""


def _did_you_mean(received: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(received, choices, n=1, cutoff=NEAR)
    return f"; did you mean {near[0]!r}?" if near else ""
