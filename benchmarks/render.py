"""Renders results as Markdown between two markers of a README, and changes nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
VERDICTS = {True: "met", False: "**missed**", None: "not judged"}


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Renders the block between the markers, from the parsed JSON that benchmarks write."""
    machine = results[0]["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    minutes = sum(result["seconds"] for result in results) / 60
    lines = [
        f"{machine['date']}. {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GiB, "
        f"{machine['system']}, no accelerator used; {versions}. {minutes:.0f} minutes in all.",
    ]
    if any(result["smoke"] for result in results):
        lines += ["", "**A smoke run: sizes are tiny and the figures mean nothing.**"]
    targets = [target for result in results for target in result["targets"]]
    if targets:
        rows = [[target["text"], target["figure"], VERDICTS[target["met"]]] for target in targets]
        lines += ["", *table(["target", "measured", ""], rows)]
    for result in results:
        lines += ["", f"### {result['question']}", "", "```", f"python benchmarks/{result['name']}.py", "```"]
        for part in result["tables"]:
            lines += ["", f"{part['title']}.", "", *table(part["columns"], part["rows"])]
            lines += [line for note in part["notes"] for line in ("", note)]
    return "\n".join(lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def replace_block(text: str, block: str) -> str:
    """Replaces the block between the markers in ``text``.

    Raises:
        ValueError: the markers do not occur exactly once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the README must hold {BEGIN} and then {END}, once each")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def rewrite(readme: Path, results: Sequence[Mapping[str, Any]]) -> None:
    text = readme.read_text(encoding="utf-8")
    readme.write_text(replace_block(text, markdown(results)), encoding="utf-8")
