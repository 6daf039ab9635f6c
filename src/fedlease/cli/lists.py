"""Commands that list presets, settings and methods."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlease.cli.shared import Json, app

__all__ = ["methods", "presets", "settings_command"]


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print the YAML of this preset.")] = None) -> None:
    """List the presets, or print one."""
    from fedlease.config.settings import preset_names, preset_text

    if name is not None:
        typer.echo(preset_text(name), nl=False)
        return
    for preset in preset_names():
        comment = [line.removeprefix("#").strip() for line in preset_text(preset).splitlines() if line.startswith("#")]
        prose = " ".join(comment[comment.index("") + 1 :])
        typer.echo(f"{preset:15} {prose.split('. ')[0].rstrip('.')}.")


@app.command("settings")
def settings_command(
    word: Annotated[str | None, typer.Argument(help="Part of a setting's name or meaning.")] = None,
    json_: Json = False,
) -> None:
    """List the settings with default, values and meaning; with WORD, only those with it in their name or meaning."""
    import textwrap

    from rich.console import Console

    from fedlease.config.explained import explained_settings, find

    rows = explained_settings()
    if word is not None:
        rows = find(rows, word)
    if json_:
        typer.echo(json.dumps([vars(row) for row in rows]))
        return
    width = Console().width
    for row in rows:
        for text, indent in ((f"{row.key} = {row.default}", 0), (row.values.replace("`", ""), 4), (row.meaning, 4)):
            space = " " * indent
            lines = textwrap.fill(text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
            typer.echo(lines)


@app.command()
def methods(json_: Json = False) -> None:
    """List the methods: year, what is shared, what a client sends and keeps, and whether ranks may differ."""
    import textwrap

    from rich.console import Console

    from fedlease.core.plugins import plugin_faults
    from fedlease.methods.facts import FACTS
    from fedlease.methods.registry import (
        CENTRALISED,
        GROUP,
        METHODS,
        UNEQUAL_RANKS,
        MethodFacts,
        builder_path,
        known_methods,
    )

    faults, rows, width = plugin_faults((*METHODS, CENTRALISED), GROUP, MethodFacts), [], Console().width
    for name in sorted(known_methods(), key=lambda name: (name == CENTRALISED, name)):
        # A faulty plug-in with the name of one of our methods does not hide that method.
        if name not in faults or name in METHODS:
            where = "fedlease.server.pooled:" if name == CENTRALISED else METHODS.get(name) or builder_path(name)
            row: dict[str, Any] = {"name": name, "about": _about(*where.split(":", 1)).replace("`", "")}
            if (facts := FACTS.get(name)) is not None:
                row |= {**vars(facts), "ranks_may_differ": name in UNEQUAL_RANKS}
            rows.append(row)
    if json_:
        typer.echo(json.dumps(rows))
    for row in () if json_ else rows:
        typer.echo(textwrap.fill(f"{row['name']:15} {row['about']}", width, subsequent_indent=" " * 16))
        if "sends" in row:
            ranks = "ranks may differ" if row["ranks_may_differ"] else "one rank for all"
            year = "" if row["year"] is None else f"{row['year']}; "
            line = f"{year}{row['kind']}; sends {row['sends']}, keeps {row['keeps']}; {ranks}"
            typer.echo(textwrap.fill(line, width, initial_indent=" " * 16, subsequent_indent=" " * 16))
    for fault in faults.values():
        typer.echo(f"warning: {fault}", err=True)


def _about(module: str, builder: str) -> str:
    """Reads a method's description from its source, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else "")
    # In a module with several methods, each builder's docstring has the name and the sentence.
    own = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == builder != "build")
    return (ast.get_docstring(next(own, tree)) or "").partition("\n")[0]
