"""Writes the tables of settings and presets in ``configuration.md``, from ``Settings`` and the shipped YAML files.

``python docs/settings_table.py`` rewrites the file where they have changed; a test says when they have.
"""

from importlib import resources
from pathlib import Path

from pydantic import BaseModel

from fedlease.config.explained import explained
from fedlease.config.settings import Settings, preset_names

PAGE = Path(__file__).parent / "configuration.md"


def with_tables(markdown: str) -> str:
    """The page with its tables as they are to be, each between two comments of its name."""
    for name, write in (("presets-table", presets_table), ("settings-table", settings_table)):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = markdown.partition(begin)
        markdown = f"{before}{begin}\n\n{write()}\n\n{end}{rest.partition(end)[2]}"
    return markdown


def presets_table() -> str:
    """What each shipped file says about itself: its leading comment, after the commands."""
    rows = ["| Name | What it is |", "| --- | --- |"]
    for name in preset_names():
        text = (resources.files("fedlease.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        comment = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
        prose = " ".join(comment[comment.index("") + 1 :]).replace("|", "\\|")
        rows.append(f"| `{name}` | {prose} |")
    return "\n".join(rows)


def settings_table(model: type[BaseModel] = Settings) -> str:
    """One Markdown section per group of settings."""
    groups: dict[str, list[str]] = {}
    for row in explained(model):
        cells = (f"`{row.key}`", f"`{row.default}`", row.values, row.meaning)
        groups.setdefault(row.group, []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = ["| Key | Default | Value | Meaning |", "| --- | --- | --- | --- |"]
    titles = {"": "## The run", **{group: f"## `{group}`" for group in groups if group}}
    return "\n\n".join("\n".join([titles[group], "", *head, *rows]) for group, rows in groups.items())


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
