"""The package of the guide ``docs/plug-ins.md``, as its reader installs it: found by its dist-info alone."""

import importlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, train
from small import small_run, small_settings, tensors_of

from fedlease.config.explained import explained_settings
from fedlease.config.layers import parse_yaml
from fedlease.config.settings import read_values, resolve
from fedlease.core import plugins
from fedlease.core.codec import dumps, loads
from fedlease.core.serialisable import CLASSES
from fedlease.core.types import Budget, TensorName
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, DataError, RunFolderError
from fedlease.methods.base import State, Terms
from fedlease.methods.registry import make_method
from fedlease.runs.runner import resume
from fedlease.storage.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "plug-ins.md"


def guide_files() -> dict[str, str]:
    """Path -> content, of every file that the guide shows."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', GUIDE.read_text(encoding="utf-8"), re.M | re.S))


def install(site: Path, files: dict[str, str]) -> Path:
    """Writes a package as pip installs it: its modules, and a dist-info with its entry points."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    for name, content in files.items():
        if name.startswith("src/"):
            path = site / name.removeprefix("src/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    points = [f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in rows.items()) for group, rows in groups]
    (info / "entry_points.txt").write_text("\n".join(points))
    return site


def uninstall(site: Path) -> None:
    """Takes the entry points of all packages away."""
    for info in site.glob("*.dist-info"):
        shutil.rmtree(info)
    importlib.invalidate_caches()
    plugins._entries.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, in which packages are installed; what they leave in this process is taken away."""
    folder, before = tmp_path / "site", {*sys.modules}
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    plugins._entries.cache_clear()
    yield folder
    plugins._entries.cache_clear()
    new = {*sys.modules} - before
    installed = {name for name in new if str(folder) in str(getattr(sys.modules[name], "__file__", ""))}
    # Classes of our own modules that a test was the first to load stay, as those modules do.
    for word in [word for word, kind in CLASSES.items() if kind.__module__ in installed]:
        del CLASSES[word]
    for name in installed:
        del sys.modules[name]


@pytest.fixture
def extras(site: Path) -> Path:
    return install(site, guide_files())


def package(name: str, entry_points: dict[str, dict[str, str]], **modules: str) -> dict[str, str]:
    """The files of a package with such entry points and modules."""
    groups = [f'[project.entry-points."{group}"]\n' + "".join(f'{n} = "{w}"\n' for n, w in rows.items())
              for group, rows in entry_points.items()]  # fmt: skip
    project = f'[project]\nname = "{name}"\nversion = "1.0"\n' + "\n".join(groups)
    return {"pyproject.toml": project, **{f"src/{module}.py": text for module, text in modules.items()}}


def command(site: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``fedlease WORDS``, with what the folder holds installed."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "fedlease", *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )


def method_tensors(folder: Path) -> dict[str, list[float]]:
    """What a method has learnt: its shared adapter."""
    saved = Checkpoint(folder).load()
    assert saved is not None
    return {name: tensor.flatten().tolist() for name, tensor in saved.state.adapter.tensors.items()}


def test_fedavgm_steps_by_its_velocity(extras: Path) -> None:
    """β = .5 from w = 0: the mean 1 gives v = -1 and w = 1; then the mean 2 gives v = -.5 - 1 and w = 2.5."""
    method: Any = make_method("fedavgm", Terms(Budget(1, 2)), {"momentum": 0.5})
    start = adapter()
    start = replace(start, tensors={name: torch.zeros_like(tensor) for name, tensor in start.tensors.items()})
    state = method.init(start, CLIENTS, 0)
    assert isinstance(state, State)
    for mean, expected in ((1.0, 1.0), (2.0, 2.5)):
        updates = [constant(train(c, method.task(state, c), rows), mean) for c, rows in CLIENTS.items()]
        after = method.aggregate(state, updates)
        assert dumps(loads(dumps(after))) == dumps(after)
        state = after
        assert all(torch.equal(t, torch.full_like(t, expected)) for t in state.adapter.tensors.values())
    idle = method.aggregate(state, [])
    assert idle.adapter == state.adapter and idle.round == state.round + 1


class TestSettingsOfItsOwn:
    def test_they_are_checked_with_all_others(self, extras: Path) -> None:
        settings = resolve(preset="smoke", overrides=["method=fedavgm"])
        assert settings.of_method("fedavgm") == {"momentum": 0.9}
        assert "\nfedavgm:\n  momentum: 0.9\n" in settings.to_yaml()
        with pytest.raises(ConfigError) as error:
            resolve(preset="smoke", overrides=["method=fedavgm", "fedavgm.momentum=2", "rounds=-1", "fedavgm.beta=1"])
        assert sorted(error.value.faults) == [
            "fedavgm.beta: no such setting; did you mean 'fedavgm.momentum'?",
            "fedavgm.momentum: must be below 1, received 2",
            "rounds: must be at least 0, received -1",
        ]

    def test_a_section_of_a_method_that_is_not_run_is_checked_and_kept(self, extras: Path) -> None:
        settings = resolve(preset="smoke", overrides=["fedavgm.momentum=0.25"])
        assert settings.of_method("fedavgm") == {"momentum": 0.25}
        again = resolve(base=settings, overrides=["method=fedavgm"])
        assert again.of_method("fedavgm") == {"momentum": 0.25}

    def test_who_does_not_use_it_has_no_section_of_it(self, extras: Path) -> None:
        assert "fedavgm" not in resolve(preset="smoke").to_yaml()

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ("class S: pass\n", "'m' has settings that are no fedlease.config.sections.Section"),
            (
                "from fedlease.config.sections import Section\nclass S(Section):\n    a: int\n",
                "'m' has settings without a default: a",
            ),
        ],
    )
    def test_what_is_no_section_with_defaults_is_refused(self, site: Path, settings: str, said: str) -> None:
        code = f"{settings}\nfrom fedlease.methods.registry import MethodFacts\nM = MethodFacts('x:build', S)\n"
        install(site, package("odd", {"fedlease.methods": {"m": "odd:M"}}, odd=code))
        with pytest.raises(ConfigError) as error:
            resolve(preset="smoke", overrides=["method=m"])
        assert error.value.faults == (f"entry points fedlease.methods: {said}",)

    def test_a_text_is_taken_as_it_is_written(self, site: Path) -> None:
        code = (
            "from fedlease.config.sections import Section\nfrom fedlease.methods.registry import MethodFacts\n"
            "class S(Section):\n    tag: str = ''\nM = MethodFacts('x:build', S)\n"
        )
        install(site, package("texts", {"fedlease.methods": {"m-1": "texts:M"}}, texts=code))
        settings = resolve(preset="smoke", overrides=["method=m-1", "m_1.tag=2024"])
        assert settings.of_method("m-1") == {"tag": "2024"}


class TestARun:
    def test_its_folder_holds_the_settings_and_the_version_and_resumes(self, extras: Path, tmp_path: Path) -> None:
        out = small_run(tmp_path / "run", method="fedavgm", baselines=["fedit"], fedavgm__momentum=0.0).out
        assert parse_yaml((out / "config.yaml").read_text())["fedavgm"] == {"momentum": 0.0}
        assert json.loads((out / "environment.json").read_text())["packages"]["fedlease-extras"] == "0.1.0"
        assert list(resume(out)) == ["fedavgm", "fedit"]
        # Without momentum it is FedIT, but for rounding.
        mine, fedit = (json.loads((out / where / "summary.json").read_text()) for where in ("", "baselines/fedit"))
        assert mine["mean"] == pytest.approx(fedit["mean"])

    def test_over_flower_it_is_the_same(self, extras: Path, tmp_path: Path) -> None:
        pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
        from flower.nodes import over_memory

        changes: dict[str, Any] = {"method": "fedavgm", "baselines": [], "fedavgm.momentum": 0.5, "rounds": 1}
        here = small_run(tmp_path / "here", **changes)
        over_memory(small_settings(**changes), tmp_path / "there")
        assert tensors_of(tmp_path / "there") == tensors_of(here.out)

    def test_a_node_without_it_says_so_in_one_sentence(self, extras: Path) -> None:
        pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
        from fedlease.flower.handler import settings_from

        text = small_settings(method="fedavgm", baselines=[]).model_dump_json()
        assert settings_from(text).of_method("fedavgm") == {"momentum": 0.9}
        uninstall(extras)
        with pytest.raises(ConfigError) as error:
            settings_from(text)
        (fault,) = error.value.faults
        said = "its method 'fedavgm' is not installed here: install the package that adds it"
        assert fault.startswith(f"the server's settings are not understood: {said}")

    def test_its_folder_without_the_package_says_so(self, extras: Path, tmp_path: Path) -> None:
        out = small_run(tmp_path / "run", method="fedavgm", baselines=[], rounds=0).out
        uninstall(extras)
        with pytest.raises(RunFolderError, match=r"its method 'fedavgm' is not installed here: install the package"):
            resume(out)


class TestPulled:
    """The term of its tasks, from the settings to the clients' weights."""

    def run(self, folder: Path, **changes: Any) -> Any:
        # The first of several steps begins where the term is 0.
        own: dict[str, Any] = {"method": "pulled", "baselines": [], "data.train_rows": 12}
        return small_run(folder, rounds=1, **{**own, **changes}).out

    def moved(self, out: Path) -> float:
        """How far the first task took the shared adapter: the distance of B from 0."""
        state = Checkpoint(out).load()
        assert state is not None
        tensors = state.state.adapter.tensors
        return sum(float(t.norm()) for n, t in tensors.items() if TensorName.parse(n).kind == "B")

    def test_without_a_pull_it_is_fedit_bit_by_bit(self, extras: Path, tmp_path: Path) -> None:
        out = self.run(tmp_path / "run", baselines=["fedit"], pulled__mu=0.0)
        mine, fedit = (method_tensors(out / where) for where in ("", "baselines/fedit"))
        assert mine == fedit

    def test_a_pull_keeps_the_weights_near_what_was_received(self, extras: Path, tmp_path: Path) -> None:
        far, near = (self.run(tmp_path / str(mu), pulled__mu=mu) for mu in (0.0, 1000.0))
        assert self.moved(near) < 0.8 * self.moved(far)

    def test_a_first_step_with_a_term_is_no_other_methods(self, extras: Path, tmp_path: Path) -> None:
        alone = self.run(tmp_path / "alone", pulled__mu=10.0)
        beside = self.run(tmp_path / "beside", method="fedit", baselines=["pulled"], pulled__mu=10.0)
        assert method_tensors(beside / "baselines/pulled") == method_tensors(alone)
        assert method_tensors(beside) != method_tensors(alone)

    def test_over_flower_it_is_the_same(self, extras: Path, tmp_path: Path) -> None:
        pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
        from flower.nodes import over_memory

        changes: dict[str, Any] = {"method": "pulled", "baselines": [], "rounds": 1, "pulled.mu": 0.5}
        here = small_run(tmp_path / "here", **changes).out
        over_memory(small_settings(**changes), tmp_path / "there")
        assert tensors_of(tmp_path / "there") == tensors_of(here)


class TestTheSource:
    def database(self, path: Path, *rows: tuple[str, str, str, str]) -> Path:
        with sqlite3.connect(path) as made:
            made.execute("CREATE TABLE rows (client, split, text, label)")
            made.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)
        made.close()
        return path

    def test_its_rows_are_those_of_the_table(self, extras: Path, tmp_path: Path) -> None:
        path = self.database(
            tmp_path / "clinics.db",
            ("b", "train", "one", "no"),
            ("a", "train", "two", "yes"),
            ("b", "train", "three", "yes"),
            ("b", "test", "four", "no"),
            ("a", "train", "five", "no"),
        )
        settings = small_settings(data__source="sqlite", data__path=str(path)).data
        found = load_federation(settings, 0)
        assert list(found.clients) == ["a", "b"]
        client = found.clients["b"]
        assert client.labels == ("no", "yes")
        assert [(row.text, row.label) for row in client.train] == [("one", 0), ("three", 1)]
        assert [(row.text, row.label) for row in client.test] == [("four", 0)]

    def test_a_file_that_is_none_is_one_sentence(self, extras: Path, tmp_path: Path) -> None:
        settings = small_settings(data__source="sqlite", data__path=str(tmp_path / "none.db")).data
        with pytest.raises(DataError, match=r"data.path: must be a SQLite file with a table 'rows' .*, received"):
            load_federation(settings, 0)

    def test_settings_of_its_own_stand_under_data(self, extras: Path, tmp_path: Path) -> None:
        path = self.database(tmp_path / "clinics.db", ("a", "train", "one", "no"), ("a", "test", "two", "no"))
        named = {"data.source": "sqlite", "data.path": str(path), "data.sqlite.table": "notes"}
        with pytest.raises(DataError, match=r"a table 'notes' \(data\.sqlite\.table\)"):
            load_federation(resolve(preset="smoke", overrides=named).data, 0)
        settings = resolve(preset="smoke", overrides={"data.source": "sqlite", "data.path": str(path)})
        assert "\n  sqlite:\n    table: rows\n" in settings.to_yaml()
        assert read_values(json.loads(settings.model_dump_json())) == settings
        with pytest.raises(ConfigError) as error:
            resolve(preset="smoke", overrides=["data.source=sqlite", "data.path=x", "data.sqlite.tabel=x"])
        assert error.value.faults == ("data.sqlite.tabel: no such setting; did you mean 'data.sqlite.table'?",)
        assert "data.sqlite.table" in {row.key for row in explained_settings()}

    def test_it_serves_what_its_facts_say(self, extras: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"data.path: is required when data.source is 'sqlite'"):
            small_settings(data__source="sqlite")
        settings = small_settings(data__source="sqlite", data__path="x.db", task="generation").data
        with pytest.raises(DataError, match=r"data.source: 'sqlite' has labels and no responses"):
            load_federation(settings, 0, "generation")


BROKEN = {"fedlease.methods": {"lost": "broken:M"}, "fedlease.tasks": {"ranks": "broken:T"},
          "fedlease.sources": {"lake": "broken:S"}}  # fmt: skip


class TestAPackageThatFails:
    @pytest.mark.parametrize("code", ["import no_such_module\n", "raise SystemExit(3)\n", "x = 1\n"])
    def test_it_is_one_sentence_where_it_is_used_and_nothing_elsewhere(self, site: Path, code: str) -> None:
        install(site, package("broken", BROKEN, broken=code))
        assert resolve(preset="smoke").method == "fedlease"
        for word, entry in (("method=lost", "lost"), ("task=ranks", "ranks"), ("data.source=lake", "lake")):
            with pytest.raises(ConfigError) as error:
                resolve(preset="smoke", overrides=[word])
            (fault,) = error.value.faults
            assert f"'{entry}' of the package broken cannot be imported: " in fault and "\n" not in fault

    def test_commands_say_so_and_go_on(self, site: Path) -> None:
        install(site, package("broken", BROKEN, broken="import no_such_module\n"))
        found = command(site, "methods")
        assert found.returncode == 0 and "fedlease " in found.stdout and "lost" not in found.stdout
        reason = "ModuleNotFoundError No module named 'no_such_module'"
        fault = f"entry points fedlease.methods: 'lost' of the package broken cannot be imported: {reason}"
        assert found.stderr == f"warning: {fault}\n"
        used = command(site, "run", "--preset", "smoke", "--set", "method=lost")
        assert (used.returncode, used.stdout) == (2, "") and used.stderr.endswith(f"{fault}\n")
        assert len(used.stderr.splitlines()) == 1

    def test_a_builder_that_is_not_there_is_one_sentence(self, site: Path) -> None:
        code = "from fedlease.methods.registry import MethodFacts\nM = MethodFacts('half:build')\n"
        install(site, package("half", {"fedlease.methods": {"half": "half:M"}}, half=code))
        with pytest.raises(ConfigError, match=r"half:build of 'half' cannot be imported: AttributeError"):
            make_method("half", Terms(Budget(1, 1)))


CLASH = "from fedlease.methods.registry import MethodFacts\nM = MethodFacts('clash:build')\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fedit", "'fedit' of the package clash is taken; uninstall one"),
        ("train", "'train' is taken: train is a setting"),
    ],
)
def test_a_name_of_ours_is_refused_where_it_is_used(site: Path, name: str, said: str) -> None:
    install(site, package("clash", {"fedlease.methods": {name: "clash:M"}}, clash=CLASH))
    assert resolve(preset="smoke", overrides=["baselines=[]"]).method == "fedlease"
    with pytest.raises(ConfigError) as error:
        resolve(preset="smoke", overrides=[f"method={name}"])
    assert error.value.faults == (f"entry points fedlease.methods: {said}",)


def test_a_name_that_two_packages_give_is_refused_where_it_is_used(site: Path) -> None:
    for distribution in ("one", "two"):
        install(site, package(distribution, {"fedlease.methods": {"m": f"{distribution}:M"}}, **{distribution: CLASH}))
    assert resolve(preset="smoke").method == "fedlease"
    with pytest.raises(ConfigError, match=r"'m' of the package (one|two) is taken; uninstall one"):
        resolve(preset="smoke", overrides=["method=m"])
