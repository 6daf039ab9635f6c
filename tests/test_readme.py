"""The README: its Python runs, its links lead somewhere, and its figures are those of the findings."""

import re
from pathlib import Path

import pytest

import fedlease
from fedlease.methods.registry import known_methods

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOME = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", README):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = ROOT / name if name else ROOT / "README.md"
        if not target.is_file() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


def test_a_dead_link_would_be_found() -> None:
    assert anchors("# FedLEASE+ on `a`, and b\n\n## Two words\n") == {"fedlease-on-a-and-b", "two-words"}


def test_every_method_stands_in_the_table() -> None:
    table = README.partition("## Methods")[2].partition("\n```")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)[1:]) == known_methods()


def test_its_figures_are_those_of_the_findings() -> None:
    rows = {
        cells[0].strip(" `"): cells[1:] for line in FINDINGS.splitlines() if len(cells := line.split("|")[1:-1]) == 4
    }
    for page in (README, HOME):
        (scores,) = re.findall(
            r"^\| four GLUE tasks, .*\| \*\*([\d.]+)\*\* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M
        )
        (leads,) = re.findall(r"^\| FedLEASE is above it by .*?\| +\| (.*) \| (.*) \| (.*) \|$", page, re.M)
        for name, score, lead in zip(("fedlease", "fedit", "local", "ifca"), scores, ("", *leads), strict=True):
            assert score in re.findall(r"[\d.]+", rows[name][0]), (name, score)
            assert rows[name][1].strip().startswith(lead), (name, lead)


def test_who_cites_it_has_the_version() -> None:
    assert f"version = {{{fedlease.__version__}}}" in README


@pytest.mark.slow
def test_its_lines_of_python_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    monkeypatch.chdir(tmp_path)
    exec(code + "print(type(model).__name__)\n", {})
    *scores, kind = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in scores] == ["north", "south"] and kind.startswith("PeftModel")
