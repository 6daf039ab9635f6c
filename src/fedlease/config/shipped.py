"""The presets that come with the package."""

from importlib import resources

from fedlease.config.faults import nearest
from fedlease.errors import ConfigError

__all__ = ["preset_names", "preset_text"]


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    folder = resources.files("fedlease.config") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset.

    Raises:
        ConfigError: no such preset; the message names the nearest.
    """
    if name not in preset_names():
        raise ConfigError(f"preset: unknown preset {name!r}{nearest(name, preset_names())}")
    return (resources.files("fedlease.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
