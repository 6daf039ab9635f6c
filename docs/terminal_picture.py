"""Records what a terminal shows of a run as ``pictures/terminal.svg``, by rich's own export.

``python docs/terminal_picture.py`` runs the quickstart with two clients per task, which takes minutes;
``python docs/terminal_picture.py DIR`` shows the result of such a run that is finished.
"""

import re
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "pictures" / "terminal.svg"
WIDTH = 88
"""Columns."""
SECOND_TABLE = "accuracy in % on each client's own test rows"
"""Where the picture ends."""


def recorded(folder: Path, console: Console) -> None:
    """Runs the quickstart into a folder, or shows the result that is there."""
    from fedlease.reporting.results import render_results
    from fedlease.storage.run_folder import method_files, read_settings
    from fedlease.storage.summary import contents_of, read_result

    if not (folder / "summary.json").exists():
        import fedlease

        fedlease.run("quickstart", out=folder, data__clients_per_task=2)
    settings = read_settings(folder)
    results = {
        name: read_result(method_files(folder, settings, name)) for name in (settings.method, *settings.baselines)
    }
    render_results(Path("runs/first"), contents_of({name: found for name, found in results.items() if found}), console)


def picture(folder: Path) -> str:
    """An SVG of what comes first, down to the table of clients; it fetches nothing."""
    ansi, options = StringIO(), {"width": WIDTH, "force_terminal": True, "color_system": "truecolor"}
    recorded(folder, Console(file=ansi, **options))
    first = ansi.getvalue().partition(SECOND_TABLE)[0].rsplit("\n", 1)[0].rstrip()
    console = Console(record=True, file=StringIO(), **options)
    console.print("[bold green]$[/] fedlease run --set data.clients_per_task=2 --out runs/first", highlight=False)
    console.print(Text.from_ansi(first))
    svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="fedlease run"), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        PICTURE.write_text(picture(Path(sys.argv[1])), encoding="utf-8")
    else:
        with tempfile.TemporaryDirectory() as scratch:
            PICTURE.write_text(picture(Path(scratch) / "run"), encoding="utf-8")
