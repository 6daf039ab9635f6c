"""What turns docstrings into the API pages: a MkDocs hook and a griffe extension.

The hook makes ``<!-- folder: fedlease.core -->`` stand for the docstring of a folder and for each of its modules that
has public names. The extension turns roles in docstrings, which editors understand, into links to the page that
documents the name; a name without a place of its own is shown as code. A role that names nothing is a warning, which
ends a strict build.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).resolve().parent / "api"
SOURCE = PAGES.parents[1] / "src"
LISTED = re.compile(r"^::: (\S+)$", re.MULTILINE)
MARKER = re.compile(r"^<!-- folder: (\S+) -->$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`~?([\w.]+)`")
ITSELF = "\n    options:\n      members: false"

log = griffe.get_logger("fedlease")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return MARKER.sub(lambda marker: f"::: {marker[1]}{ITSELF}\n\n{_listing(_modules(marker[1]))}", markdown)


def listed_modules() -> set[str]:
    """Every module that an API page shows, by its name or as one of its folder."""
    texts = [path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")]
    folders = {name for text in texts for name in MARKER.findall(text)}
    return {name for text in texts for name in LISTED.findall(text)}.union(folders, *map(_modules, folders))


class Roles(griffe.Extension):
    """Rewrites every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe."""
        if pkg.path != "fedlease":
            return
        modules = listed_modules()
        for place in _objects(pkg):
            if place.docstring is not None:
                text = place.docstring.value
                place.docstring.value = ROLE.sub(lambda role, place=place: _link(role[1], place, pkg, modules), text)


def _listing(modules: list[str]) -> str:
    return "\n\n".join(f"::: {name}" for name in modules)


def _modules(folder: str) -> list[str]:
    """The modules in a folder, at any depth, that have public names."""
    root = SOURCE / Path(*folder.split("."))
    files = [path for path in sorted(root.rglob("*.py")) if path != root / "__init__.py"]
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return [name for name, path in names.items() if "\n__all__ = [" in path.read_text(encoding="utf-8")]


def _objects(place: Any) -> Iterator[Any]:
    yield place
    for member in place.members.values():
        if not member.is_alias:
            yield from _objects(member) if member.is_module or member.is_class else [member]


def _link(name: str, place: Any, pkg: griffe.Module, modules: set[str]) -> str:
    shown = f"`{name.rpartition('.')[2]}`"
    if "." in name and not name.startswith("fedlease."):
        return f"`{name}`"  # of another package
    try:
        path = name if name.startswith("fedlease.") else place.resolve(name)
        found = pkg[path.removeprefix("fedlease.")]
        found = found.final_target if found.is_alias else found
    except (KeyError, griffe.AliasResolutionError, griffe.NameResolutionError):
        log.warning(f"{place.path}: a role names {name!r}, which is nothing there")
        return shown
    hidden = any(part.startswith("_") for part in found.path.split("."))
    module = found.path if found.is_module else found.module.path
    return shown if hidden or module not in modules or not found.has_docstring else f"[{shown}][{found.path}]"
