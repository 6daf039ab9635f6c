"""Draws the plan of the source as its imports have it: a table in ``architecture.md`` and ``pictures/plan.svg``.

``python docs/plan.py`` rewrites both where they have changed; a test says when they have.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "src" / "fedlease"
CONTRIBUTING = DOCS.parent / "CONTRIBUTING.md"
"""Its table has the folders in the order of the ladder, as a test says."""
PAGE, PICTURE = DOCS / "architecture.md", DOCS / "pictures" / "plan.svg"
BEGIN, END = "<!-- plan -->", "<!-- end of plan -->"
ALONE = {"__init__", "__main__", "_version"}
"""Modules at the top that belong to no step of the ladder."""
CELL, LEFT, TOP = 26, 110, 96


def arrows(package: Path = PACKAGE) -> dict[str, dict[str, int]]:
    """Folder -> folder that it imports from -> in how many of its modules; in the order of the ladder."""
    ladder = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE)
    found: dict[str, dict[str, int]] = {name: {} for name in ladder}
    for path in sorted(package.rglob("*.py")):
        folder = path.relative_to(package).parts[0].removesuffix(".py")
        if folder not in ALONE:
            row = found[folder]
            for other in set(imported(path.read_text(encoding="utf-8"))) - {folder} - ALONE:
                row[other] = row.get(other, 0) + 1
    return {name: {other: row[other] for other in ladder if other in row} for name, row in found.items()}


def imported(source: str) -> Iterator[str]:
    """The first name below ``fedlease`` of every import in a source, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        yield from (name.split(".")[1] for name in names if name.startswith("fedlease."))


def purpose(folder: str, package: Path = PACKAGE) -> str:
    """The first sentence that a folder or module says of itself."""
    path = package / f"{folder}.py"
    source = (path if path.exists() else package / folder / "__init__.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


def table(plan: Mapping[str, Mapping[str, int]]) -> str:
    """What lives in every folder, and what it imports from."""
    rows = [
        f"| `{folder}` | {purpose(folder).replace('``', '`')} | {', '.join(others) or 'nothing'} |"
        for folder, others in plan.items()
    ]
    return "\n".join(["| Folder | What lives there | Imports from |", "| --- | --- | --- |", *rows])


def picture(plan: Mapping[str, Mapping[str, int]]) -> str:
    """A square of folders by folders as SVG: a dot says that the row's folder imports from the column's."""
    names = list(plan)
    size = CELL * len(names)
    style = "text{font:12px system-ui,sans-serif;fill:#59636e}line{stroke:#d9dcdf}circle{fill:#0072B2}"
    marks = []
    for row, name in enumerate(names):
        y = TOP + CELL * row + CELL / 2
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{name}</text>')
        x = LEFT + CELL * row + CELL / 2
        marks.append(f'<text transform="translate({x + 4},{TOP - 8}) rotate(-60)">{name}</text>')
        marks.append(f'<line x1="{LEFT}" x2="{LEFT + size}" y1="{y}" y2="{y}"/>')
        for other, count in plan[name].items():
            x = LEFT + CELL * names.index(other) + CELL / 2
            words = f"{name} imports from {other} in {count} module{'' if count == 1 else 's'}"
            marks.append(f'<circle cx="{x}" cy="{y}" r="{min(3 + count**0.5, 11):.1f}"><title>{words}</title></circle>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + size + 40} {TOP + size + 8}" role="img">'
    return "\n".join([head, f"<style>{style}</style>", *marks, "</svg>"]) + "\n"


def written(page: str, plan: Mapping[str, Mapping[str, int]]) -> str:
    """The page with its table as it is to be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(plan)}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    plan = arrows()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), plan), encoding="utf-8")
    PICTURE.write_text(picture(plan), encoding="utf-8")
