"""The notebook runs from top to bottom, on the smoke preset."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import EIGHT, SMALL

from fedlease.config import settings

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_its_cells_run_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain Python in one namespace, as a kernel runs them, with few rows."""
    pytest.importorskip("fastapi", reason="the notebook serves, and fastapi is not installed")
    resolve = settings.resolve

    def small(*, preset: str, overrides: dict[str, Any] | None = None) -> settings.Settings:
        return resolve(preset=preset, overrides={**SMALL, **EIGHT, "baselines": ["local"], **(overrides or {})})

    monkeypatch.setattr(settings, "resolve", small)
    monkeypatch.setenv("FEDLEASE_NOTEBOOK_PRESET", "smoke")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "commit the notebook without outputs"
    cells: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), cells)
    printed = capsys.readouterr().out
    for said in ("is kept back", "silhouette by number of experts", "adapter_config.json", "own warm-up"):
        assert said in printed
    assert "stopped with exit code 0" in printed
