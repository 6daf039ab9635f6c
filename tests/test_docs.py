"""The built site: every reference leads somewhere, every public name is on a page, and the check of it can fail."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import griffe
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "fedlease"
WITHOUT_PAGE = ("fedlease.cli",)
"""Its users call commands, which the guides show."""


def check_words() -> list[str]:
    """The words with which ``make docs`` builds the site: under --quiet no warning is counted, and none is an error."""
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in line)
    words = shlex.split(line.partition("mkdocs ")[2])
    assert "--strict" in words and "--quiet" not in words
    return words


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` does."""
    command = [sys.executable, "-m", "mkdocs", *check_words(), "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)


class Page(HTMLParser):
    """Ids, links, and the text as a reader sees it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self._skipped = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self._skipped += tag in ("script", "style")
        self.ids |= {value for key, value in attributes if key in ("id", "name") and value}
        self.links += [value for key in ("href", "src") if (value := found.get(key))]

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text += data


@pytest.fixture(scope="module")
def site(built_site: Path) -> dict[Path, Page]:
    """Every page of the site, by its path."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(built_site.rglob("*.html"))}


@pytest.mark.slow
def test_no_markup_of_the_sources_is_left_on_a_page(site: dict[Path, Page]) -> None:
    raw = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):|^::: |<!-- |\[`|``", re.MULTILINE)
    assert {path.name: found for path, page in site.items() if (found := raw.findall(page.text))} == {}


def test_no_page_of_the_api_is_empty(site: dict[Path, Page]) -> None:
    pages = {path: page for path, page in site.items() if path.parent.name == "api"}
    assert len(pages) == len(list((ROOT / "docs" / "api").glob("*.md"))) > 10
    assert [path.name for path, page in pages.items() if not any("fedlease." in name for name in page.ids)] == []


def test_every_link_inside_the_site_leads_to_a_place(site: dict[Path, Page]) -> None:
    dead = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = target in site and (not anchor or anchor in site[target].ids or anchor == "__codelineno")
            if not (known or (target.is_file() and not anchor)):
                dead.append(f"{path.name}: {link}")
    assert dead == []


@cache
def package() -> Any:
    return griffe.load("fedlease", search_paths=[str(ROOT / "src")], resolve_aliases=True)


def public_names() -> Iterator[tuple[str, str]]:
    """Each name that a module exports, beside the path where it is defined."""
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module.startswith(WITHOUT_PAGE):
            continue
        found = package()[module.partition(".")[2]] if "." in module else package()
        for name in found.exports or ():
            member = found.members.get(str(name))
            if member is None:  # a constant that is assigned beside others
                continue
            target = member.final_target if member.is_alias else member
            # A constant or type alias may say by its name alone what it is.
            if (target.is_class or target.is_function or target.has_docstring) and not str(name).startswith("_"):
                yield f"{module}.{name}", target.path


def test_every_public_name_is_on_a_page(site: dict[Path, Page]) -> None:
    anchors = set().union(*(page.ids for path, page in site.items() if path.parent.name == "api"))
    names = dict(public_names())
    assert {"fedlease.run", "fedlease.load", "fedlease.core.allocate.allocate"} <= set(names)
    assert sorted(name for name, path in names.items() if path not in anchors) == []


def test_roles_become_links(site: dict[Path, Page]) -> None:
    """``Settings.to_yaml`` refers to ``resolve`` of its own module, a method to types of another page."""
    (config,) = (page for path, page in site.items() if path.name == "config.html")
    (methods,) = (page for path, page in site.items() if path.name == "methods.html" and path.parent.name == "api")
    assert "#fedlease.config.settings.resolve" in config.links
    assert [link for link in methods.links if link.startswith("core.html#fedlease.core.")] != []


class TestTheCheckItself:
    """A minimal site with the plugins and rules of the real one, and one fault."""

    def project(self, folder: Path, index: str, module: str = "") -> Path:
        (folder / "docs" / "api").mkdir(parents=True)
        for name in ("api_pages.py", "index.md"):
            shutil.copy(ROOT / "docs" / name, folder / "docs" / name)
        (folder / "docs" / "index.md").write_text(index)
        (folder / "src" / "fedlease").mkdir(parents=True)
        (folder / "src" / "fedlease" / "__init__.py").write_text(module or '"""A package."""\n')
        text = (ROOT / "mkdocs.yml").read_text()
        (folder / "mkdocs.yml").write_text(text[: text.index("\nnav:")] + "\nnav:\n  - Home: index.md\n")
        return folder

    def test_a_sound_site_passes(self, tmp_path: Path) -> None:
        done = build(self.project(tmp_path, "# A\n\n::: fedlease\n"), tmp_path / "site")
        assert done.returncode == 0, done.stderr

    def test_every_planted_fault_is_found(self, tmp_path: Path) -> None:
        index = "# A\n\n[x][nowhere-1]\n\n[x](nowhere-2.md)\n\n[x](#nowhere-3)\n\n::: fedlease\n"
        module = (
            'def f(a: int) -> None:\n    """See :func:`nowhere_4`.\n\n    Args:\n        a, b: nowhere 5.\n    """\n'
        )
        done = build(self.project(tmp_path, index, module), tmp_path / "site")
        said = (
            "target 'nowhere-1'",
            "'nowhere-2.md'",
            "contains a link '#nowhere-3'",
            "fedlease.f: a role names 'nowhere_4'",
            "Parameter 'a, b' does not appear",
        )
        assert [words for words in said if words not in done.stderr] == []
        # One more: the parameter that is none has no type either.
        assert "Aborted with 6 warnings in strict mode!" in done.stdout + done.stderr
        assert done.returncode == 1


def script(name: str) -> Any:
    """A script of the docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_is_as_the_imports_have_it() -> None:
    plan = script("plan")
    arrows = plan.arrows()
    assert "server" in arrows["runs"] and "runs" not in arrows["server"]
    page, picture = plan.PAGE.read_text(encoding="utf-8"), plan.PICTURE.read_text(encoding="utf-8")
    assert (page, picture) == (plan.written(page, arrows), plan.picture(arrows)), "run: python docs/plan.py"


def test_the_plan_sees_every_import() -> None:
    inside = "def f():\n    from fedlease import files, client\n    from fedlease.data.load import x"
    source = f"import fedlease.core.types\n{inside}"
    assert set(script("plan").imported(source)) == {"core", "files", "client", "data"}


def test_the_guide_has_every_event_with_every_field() -> None:
    page, written = (ROOT / "docs" / "listeners.md").read_text(encoding="utf-8"), script("events_table")
    assert page == written.with_events(page), "run: python docs/events_table.py"
    from dataclasses import fields
    from typing import get_args

    from fedlease.server.events import Event

    for event in get_args(Event):
        summary, meanings = written.described(event)
        assert summary.endswith(".") and [*meanings] == [item.name for item in fields(event)], event


def test_the_table_of_settings_is_in_the_file_that_the_readme_names() -> None:
    (named,) = re.findall(r"\[([\w/.]+)\]\(\1\) \| every setting \|", (ROOT / "README.md").read_text())
    page = (ROOT / named).read_text(encoding="utf-8")
    written = script("settings_table")
    assert page == written.with_tables(page), "run: python docs/settings_table.py"
    assert [row for row in page.splitlines() if row.startswith("| `") and row.endswith("|  |")] == [], "no meaning"
    from fedlease.config.faults import setting_names
    from fedlease.config.settings import Settings

    assert [key for key in setting_names(Settings) if f"| `{key}` |" not in page] == []
