"""What holds for the source as a whole: one-way imports, no pickle, sorted exports; each rule meets a planted fault."""

import ast
import importlib
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import fedlease
from fedlease.config.faults import setting_names
from fedlease.config.settings import Settings
from fedlease.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
PACKAGE = SRC / "fedlease"
DOCS = ROOT / "docs"

SCIENCE = {"torch", "numpy", "scipy", "sklearn", "safetensors"}

LADDER = (
    "errors",
    "core",
    "files",
    "methods",
    "peft_plugin",
    "config",
    "models",
    "data",
    "tasks",
    "storage",
    "privacy",
    "client",
    "server",
    "reporting",
    "runs",
    "flower",
    "use",
    "experiments",
    "cli",
)
"""Imports go from a folder to those before it, and to its own."""

# What a folder does without although it stands below; written out, so that a new arrow is a decision.
NEVER = {
    "methods": {"files"},
    "peft_plugin": {"methods"},
    "config": {"files", "peft_plugin"},
    "models": {"methods", "peft_plugin"},
    "data": {"methods", "peft_plugin", "models"},
    "tasks": {"methods", "peft_plugin", "models", "files"},
    "reporting": {"methods", "peft_plugin", "models", "client"},
    "cli": {"peft_plugin", "models", "data", "client"},
}
LEAVES = {"_version"}
"""Read by anyone: they import nothing."""

THIRD_PARTY = {"errors": set[str](), "core": SCIENCE, "methods": SCIENCE}

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
PICKLE_CALLS = {("torch", "load"), ("torch", "save"), ("joblib", "load"), ("joblib", "dump")}

SOFT_LIMIT = 300
"""Lines; the design asks for files that are read in one sitting."""


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def modules(root: Path = PACKAGE) -> list[Path]:
    return sorted(root.rglob("*.py"))


def imports(source: str, package: str = "fedlease") -> Iterator[str]:
    """Every dotted name imported anywhere, inside functions and ``if TYPE_CHECKING`` too."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, node.module] if node.module else parent)
            else:
                base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}"


def layer_of(path: Path, root: Path = PACKAGE) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def package_of(path: Path, root: Path = PACKAGE) -> str:
    return ".".join(["fedlease", *path.relative_to(root).parts[:-1]])


def may_import(layer: str) -> set[str]:
    """The folders that a folder may import: those below it, and itself."""
    return set(LADDER[: LADDER.index(layer) + 1]) - NEVER.get(layer, set())


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def known_modules() -> set[str]:
    return {name_of(path) for path in modules()}


def imported_modules(source: str, package: str) -> set[str]:
    """The modules of fedlease that a source imports anywhere."""
    known = known_modules()
    found = set()
    for name in imports(source, package):
        found |= {name} & known or {name.rpartition(".")[0]} & known
    return found - {"fedlease"}


def circles(arrows: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or over others."""
    reach = {name: set(targets) for name, targets in arrows.items()}
    for through in arrows:
        for name in arrows:
            if through in reach[name]:
                reach[name] |= reach[through]
    found: list[set[str]] = []
    for name in sorted(arrows):
        circle = {other for other in reach[name] if name in reach.get(other, ())}
        if circle and circle not in found:
            found.append(circle)
    return found


def import_faults(layer: str, source: str, package: str = "fedlease") -> list[str]:
    faults = []
    for name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == "fedlease":
            part = rest.split(".")[0]
            if layer in LADDER and part not in LEAVES and part not in may_import(layer):
                faults.append(f"{layer} must not import fedlease.{part}")
        elif layer in THIRD_PARTY and top not in THIRD_PARTY[layer] | set(sys.stdlib_module_names):
            faults.append(f"{layer} must not import {top}")
    return faults


def pickle_faults(source: str) -> list[str]:
    faults = [f"imports {name}" for name in imports(source) if name.split(".")[0] in PICKLES]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in PICKLE_CALLS:
                faults.append(f"calls {node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
            faults.append(f"passes {node.arg}")
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
            faults += [f"imports {node.module}.{a.name}" for a in node.names if a.name in ("load", "save")]
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant) and first.value in PICKLES:
                faults.append(f"imports {first.value}")
    return faults


def exports(source: str) -> list[str] | None:
    """The literal ``__all__`` of a module; None where there is none."""
    for node in parsed(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def export_key(name: str) -> tuple[int, str]:
    """The order that ruff's RUF022 keeps: CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name.lstrip("_")[:1].isupper() else 2, name)


def offenders(check: Callable[[Path, str], list[str]]) -> dict[str, list[str]]:
    """Module -> its faults, of all modules that have any."""
    found = {str(path.relative_to(PACKAGE)): check(path, path.read_text()) for path in modules()}
    return {name: faults for name, faults in found.items() if faults}


def unknown_exports(path: Path, source: str) -> list[str]:
    names = exports(source)
    if names is None:
        return ["a module of the core states its __all__"] * (layer_of(path) == "core" and path.name != "__init__.py")
    parts = path.relative_to(SRC).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not hasattr(module, name)]


def unsorted_exports(path: Path, source: str) -> list[str]:
    names = exports(source) or []
    return [] if names == sorted(set(names), key=export_key) else names


class TestEveryModule:
    def test_imports_go_down_the_ladder(self) -> None:
        assert offenders(lambda path, source: import_faults(layer_of(path), source, package_of(path))) == {}

    def test_imports_go_in_no_circle(self) -> None:
        arrows = {name_of(path): imported_modules(path.read_text(), package_of(path)) for path in modules()}
        assert circles(arrows) == []

    def test_nothing_stands_loose_at_the_top(self) -> None:
        assert {path.name for path in PACKAGE.glob("*.py")} == {
            "__init__.py",
            "__main__.py",
            "_version.py",
            "errors.py",
            "files.py",
        }
        folders = {path.parent.relative_to(PACKAGE).parts[0] for path in modules() if path.parent != PACKAGE}
        assert folders == set(LADDER) - {"errors", "files"}

    def test_every_folder_says_what_lives_there_and_what_may_not(self) -> None:
        def short(path: Path, source: str) -> list[str]:
            sentences = re.findall(r"\.(?=\s|$)", ast.get_docstring(parsed(source)) or "")
            return ["needs two sentences"] * (path.name == "__init__.py" and len(sentences) < 2)

        found = offenders(short)
        assert found.pop("__init__.py", None) == ["needs two sentences"]  # the package itself shows how it is used
        assert found == {}

    def test_every_folder_of_modules_is_a_package(self) -> None:
        assert [str(path) for path in modules() if not (path.parent / "__init__.py").exists()] == []

    def test_no_lazy_name_is_the_name_of_a_module(self) -> None:
        # Importing a module sets its name in its package, whatever else had it.
        def hidden(path: Path, _: str) -> list[str]:
            if path.name != "__init__.py":
                return []
            names = getattr(importlib.import_module(name_of(path)), "__all__", [])
            return [name for name in names if (path.parent / f"{name}.py").exists() or (path.parent / name).is_dir()]

        assert offenders(hidden) == {}

    def test_nothing_is_pickled(self) -> None:
        assert offenders(lambda _, source: pickle_faults(source)) == {}

    def test_exports_are_sorted_and_unique(self) -> None:
        assert offenders(unsorted_exports) == {}

    def test_every_export_exists(self) -> None:
        assert offenders(unknown_exports) == {}

    def test_every_module_is_short_enough_to_read(self) -> None:
        def too_long(_: Path, source: str) -> list[str]:
            return [f"{source.count(chr(10))} lines"] if source.count("\n") > SOFT_LIMIT else []

        assert offenders(too_long) == {}


def listed_folders(page: str) -> list[str]:
    """The first column of the page's table of ``src/fedlease/``, as in :data:`LADDER`."""
    table = (ROOT / page).read_text(encoding="utf-8").partition("| `src/fedlease/` |")[2].partition("\n\n")[0]
    return [name.removesuffix(".py").removesuffix("/") for name in re.findall(r"^\| `([\w./]+)` \|", table, re.M)]


class TestPages:
    """README and CONTRIBUTING show the source as it is."""

    PAGES = (
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    )

    def test_contributing_has_the_ladder_in_its_order(self) -> None:
        assert listed_folders("CONTRIBUTING.md") == [name for name in LADDER if name in there()]

    def test_the_readme_has_every_folder_in_the_order_of_the_ladder(self) -> None:
        folders = [name for name in LADDER if (PACKAGE / name).is_dir()]
        assert listed_folders("README.md") == folders

    def test_every_path_and_module_that_a_page_names_is_there(self) -> None:
        keys = set(setting_names(Settings)) | {"fedlease.sources"}  # a group of entry points
        missing = []
        for page in self.PAGES:
            text = (ROOT / page).read_text(encoding="utf-8")
            paths = re.findall(r"\b((?:src/fedlease|benchmarks|examples|docs)/[\w./-]+\w)", text)
            missing += [f"{page}: {path}" for path in paths if not (ROOT / path).exists()]
            names = set(re.findall(r"`(fedlease(?:\.\w+)+)`", text)) - keys
            missing += [f"{page}: {name}" for name in names if not resolves(name)]
        assert missing == []

    def test_a_missing_path_would_be_found(self) -> None:
        assert not resolves("fedlease.engines.local_step")
        assert not resolves("fedlease.run.no_such_name")
        assert resolves("fedlease.core.allocate.allocate")


def there() -> set[str]:
    return {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}


def resolves(name: str) -> bool:
    """Whether a dotted name, of a module or of something in one, is there."""
    return pydoc.locate(name) is not None


class TestTheTestsThemselves:
    def test_the_source_is_found(self) -> None:
        assert {"core", "methods", "client", "server", "peft_plugin", "data", "errors", "config"} <= set(
            map(layer_of, modules())
        )
        assert len(modules()) > 20

    @pytest.mark.parametrize(
        ("layer", "source"),
        [
            ("core", "import fedlease.config.settings"),
            ("core", "from fedlease import config"),
            ("core", "from fedlease.methods.registry import METHODS"),
            ("core", "import torch, transformers"),
            ("core", "def f():\n    import peft"),
            (
                "core",
                "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fedlease.data import federation",
            ),
            ("core", "from ..data.federation import Row"),
            ("core", "from .. import config"),
            ("methods", "from fedlease.server.events import Event"),
            ("methods", "from fedlease.data.federation import Row"),
            ("methods", "import peft"),
            ("peft_plugin", "from fedlease.methods.base import Method"),
            ("server", "from fedlease.use.load import load"),
            ("client", "from fedlease import cli"),
            ("use", "import fedlease.cli.main"),
            ("data", "from fedlease.methods.fedit import FedIT"),
            ("reporting", "from fedlease.run import run"),
        ],
    )
    def test_a_planted_wrong_import_is_found(self, layer: str, source: str, tmp_path: Path) -> None:
        planted = tmp_path / "fedlease" / layer / "bad.py"
        planted.parent.mkdir(parents=True)
        planted.write_text(f'"""Planted."""\n\n{source}\n')
        (path,) = modules(tmp_path / "fedlease")
        root = tmp_path / "fedlease"
        assert import_faults(layer_of(path, root), path.read_text(), package_of(path, root)) != []

    @pytest.mark.parametrize(
        ("layer", "source"),
        [
            (
                "core",
                "import math\nimport torch\nfrom scipy.cluster import hierarchy\nfrom fedlease.core.types import Stage",
            ),
            ("core", "from .types import Stage\nfrom ..errors import InputError"),
            ("methods", "from fedlease.core.types import Stage\nfrom fedlease.methods.base import Method"),
            (
                "client",
                "import peft\nfrom fedlease.methods.registry import METHODS\nfrom fedlease.peft_plugin import layer",
            ),
            ("cli", "from fedlease.use import predict\nimport typer"),
        ],
    )
    def test_right_imports_pass(self, layer: str, source: str) -> None:
        assert import_faults(layer, source, f"fedlease.{layer}") == []

    @pytest.mark.parametrize(
        "source",
        [
            "import pickle",
            "def f():\n    from dill import loads",
            "from joblib import load",
            "import torch\ntorch.load('x')",
            "import torch\nread = torch.load",
            "import torch\ntorch.save({}, 'x')",
            "from torch import load",
            "from torch.serialization import save",
            "f('x', weights_only=True)",
            "np.load('x', allow_pickle=False)",
            "import importlib\nimportlib.import_module('pickle')",
            "__import__('marshal')",
        ],
    )
    def test_a_planted_pickle_is_found(self, source: str) -> None:
        assert pickle_faults(source) != []

    def test_harmless_loads_pass(self) -> None:
        assert pickle_faults("import json, torch\njson.loads('1')\nsafetensors.torch.load(b'')\ntorch.ones(1)") == []

    def test_a_planted_export_is_found(self) -> None:
        names = exports("__all__ = ['b', 'a', 'A']\n")
        assert names == ["b", "a", "A"]
        assert sorted(names, key=export_key) == ["A", "a", "b"]
        assert sorted(["make", "Zeta", "HEAD", "Alpha"], key=export_key) == ["HEAD", "Alpha", "Zeta", "make"]
        assert exports("x = 1") is None


def test_every_method_of_the_table_can_be_imported() -> None:
    found = {name: importlib.import_module(path.partition(":")[0]).__all__ for name, path in METHODS.items()}
    assert [name for name, path in METHODS.items() if path.partition(":")[2] not in found[name]] == []
    assert list(METHODS) == sorted(METHODS)


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


class TestLazyImport:
    HEAVY = frozenset({"torch", "transformers", "peft", "sklearn", "scipy", "datasets", "pandas"})

    def test_importing_the_package_imports_nothing_heavy(self) -> None:
        assert (
            not imported_by("import fedlease; fedlease.__version__; from fedlease.methods import registry") & self.HEAVY
        )

    def test_rows_run_folders_and_calls_need_no_torch_before_there_is_something_to_train(self) -> None:
        modules = "fedlease.data.load, fedlease.data.sources.folder, fedlease.storage.run_folder, fedlease.use.run"
        assert not imported_by(f"import {modules}, fedlease.runs.machine, fedlease.experiments.calls") & self.HEAVY

    def test_the_test_can_fail(self) -> None:
        assert "torch" in imported_by("import fedlease.core.types") & self.HEAVY


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found[0] == fedlease.__version__


def test_the_citation_states_the_version() -> None:
    assert f"\nversion: {fedlease.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_dependency_has_a_constraint() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")
        for requirement in [*project["dependencies"], *(r for name in extras for r in extras[name] if name != "flower")]
    } - {"fedlease"}  # one extra may name others
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0] for line in lines}
    assert wanted <= pinned
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines)


def test_every_constraint_holds_for_the_first_python_that_is_promised() -> None:
    """A pin for 3.11.5 and newer leaves the command of the README without a solution on a stock Debian 12 (3.11.2)."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    installed = {f"{found.metadata['Name'].lower()}=={found.version}": found for found in distributions()}
    needed = {line: installed[line].metadata["Requires-Python"] for line in lines if line in installed}
    assert len(needed) > len(lines) / 3
    assert {line: python for line, python in needed.items() if python and "3.11.0" not in SpecifierSet(python)} == {}
