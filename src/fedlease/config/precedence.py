"""How a preset gives way: what it or a default says never stands against what the user says."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fedlease.config.choices import QUANTISATION_DEVICES
from fedlease.config.layers import group_of
from fedlease.config.sections import Section, ranks_differ
from fedlease.config.tables import known_sources, known_tasks
from fedlease.methods.registry import UNEQUAL_RANKS

__all__ = ["GUARD", "as_stated", "give_way", "is_stated"]

GUARD: dict[str, dict[str, Any]] = {
    "fedlease": {"average": "median"},
    "fedlease_plus": {"average": "median"},
    "bounds": {"against": "refuse"},
}
"""Values that ``bounds.guarded`` sets unless the user does."""

S = TypeVar("S", bound=Section)


def give_way(preset: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preset, changed where the user's contradict them; those the user gives are laid over it.

    Args:
        preset: nested, as its file has it; empty where there is none.
        mine: what the user says, nested.
    """
    layers = dict(preset)
    _make_room_for_own_rows(layers, mine)
    _agree_on_task(layers, mine, str(preset.get("task", "classification")))
    _drop_what_the_source_ignores(layers, mine)
    if baselines := layers.get("baselines"):
        layers["baselines"] = [name for name in baselines if name != mine.get("method")]
        if ranks_differ(group_of(mine, "lora").get("r")):
            layers["baselines"] = [name for name in layers["baselines"] if name in UNEQUAL_RANKS]
    if group_of(mine, "bounds").get("guarded") is True:
        layers |= {section: {**group_of(layers, section), **values} for section, values in GUARD.items()}
    # A base in 8 or 4 bits is not quantised on a device that cannot do it.
    device, quantisation = str(mine.get("device", "auto")).split(":")[0], group_of(layers, "base").get("quantisation")
    if quantisation is not None and device not in ("auto", *QUANTISATION_DEVICES.get(quantisation, ())):
        layers["base"] = {**layers["base"], "quantisation": "none"}
    return layers


def as_stated(settings: S, mine: Mapping[str, Any]) -> S:
    """The same settings, of which ``model_fields_set`` holds what the user says and nothing of a preset."""
    values = dict(settings)
    for name, value in values.items():
        if isinstance(value, Section):
            values[name] = as_stated(value, group_of(mine, name))
    return type(settings).model_construct(_fields_set={*mine} & {*values}, **values)


def is_stated(settings: Section, key: str) -> bool:
    """Whether the user gave this setting; what is a preset's or a default may give way."""
    name, _, rest = key.partition(".")
    return is_stated(getattr(settings, name), rest) if rest else name in settings.model_fields_set


def _make_room_for_own_rows(layers: dict[str, Any], mine: Mapping[str, Any]) -> None:
    """Own rows take the place of those that a preset brings."""
    own, given = group_of(mine, "data"), group_of(layers, "data")
    in_memory = own.get("source") == "memory"
    if not in_memory and (own.get("path") is None or own.get("source", "folder") != "folder"):
        return
    source = known_sources().get(given.get("source", "folder"))
    if given.get("source") == "quickstart":
        # Its row counts and lengths are made for its own corpora.
        layers["data"] = {"source": "folder"}
    elif in_memory:
        layers["data"] = {key: value for key, value in given.items() if key not in ("path", "partition")}
    elif source is not None and source.path == "not read":
        layers["data"] = {**given, "source": "folder"}


def _agree_on_task(layers: dict[str, Any], mine: Mapping[str, Any], made_for: str) -> None:
    """Source and model follow the user's task, and the task follows the user's source.

    ``made_for`` is the preset's task.
    """
    own, given = group_of(mine, "data"), group_of(layers, "data")
    source = own.get("source", given.get("source", "folder"))
    task = mine.get("task", layers.get("task", made_for))
    sources, tasks = known_sources(), known_tasks()
    if not isinstance(task, str) or task not in tasks:
        return
    if isinstance(source, str) and source in sources and tasks[task].rows not in sources[source].rows:
        if "task" not in mine and "source" in own:
            task = layers["task"] = next(name for name in tasks if tasks[name].rows in sources[source].rows)
        elif "task" in mine and "source" not in own and own.get("path") is not None:
            layers["data"] = {**given, "source": "folder"}
    if task != made_for and tasks[task].default_model is not None and layers.get("model") != "tiny-random":
        layers["model"] = tasks[task].default_model


def _drop_what_the_source_ignores(layers: dict[str, Any], mine: Mapping[str, Any]) -> None:
    """A preset's ways of dealing rows go where the source that the user chose has none of them."""
    given = group_of(layers, "data")
    source = known_sources().get(str(group_of(mine, "data").get("source", given.get("source", "folder"))))
    ignored = {"partition": "partitions", "share_rows": "shares", "labels": "labels"}
    dropped = {key for key, fact in ignored.items() if source is not None and not getattr(source, fact)}
    if given:
        layers["data"] = {key: value for key, value in given.items() if key not in dropped}
