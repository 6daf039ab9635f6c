"""The table of methods: what is built from a section of settings, and what other packages add."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from contract.planted import CLIENTS, adapter, made
from small import small_settings

from fedlease.core import plugins
from fedlease.core.codec import CLASSES
from fedlease.core.medians import median
from fedlease.core.types import Budget
from fedlease.errors import ConfigError
from fedlease.methods import registry
from fedlease.methods.base import State, Terms
from fedlease.methods.fedit import FedIT
from fedlease.methods.registry import METHODS, known_methods, load_method, make_method
from fedlease.runs.building import build_method

TERMS = Terms(Budget(1, 1))


@dataclass(frozen=True)
class Apart(FedIT):
    """A method of another package, with a setting that a method here also has."""

    distance: str = "euclid"


def build(terms: Terms, **own: Any) -> Apart:
    return Apart(terms.budget, terms.weights, **own)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs entry points for a test: name -> where it points to."""
    module = ModuleType("another_package")
    module.build, module.FACTS = build, registry.MethodFacts("another_package:build")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another_package", module)

    def installed(points: Mapping[str, str]) -> None:
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
        monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == registry.GROUP else [])
        plugins._entries.cache_clear()

    yield installed
    plugins._entries.cache_clear()


def test_a_setting_that_a_method_does_not_have_is_an_error_and_never_dropped() -> None:
    for name in METHODS:
        with pytest.raises(TypeError, match="nothing_like_it"):
            make_method(name, TERMS, {"nothing_like_it": 1})


@cache
def imports_of(module: str) -> set[str]:
    """The modules of fedlease that one imports outside of functions."""
    found, path = set[str](), Path(str(find_spec(module).origin))  # type: ignore[union-attr]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fedlease."):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in sys.modules}


def loaded_with(module: str) -> set[str]:
    """The modules of fedlease that are loaded with one."""
    found, waiting = set[str](), [module]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += imports_of(name)
    return found


def test_a_method_that_is_loaded_alone_can_read_its_state() -> None:
    """What reads a run folder has imported no method but the run's."""
    lost = []
    for name, where in METHODS.items():
        state, loaded = made(name, Budget(1, 1)).init(adapter(), CLIENTS, 0), loaded_with(where.partition(":")[0])
        while state is not None:
            lost += [name] * (type(state).__module__ not in loaded or type(state).__name__ not in CLASSES)
            state = getattr(state, "inner", None)
    assert lost == []
    assert "fedlease.methods.fedalt" not in loaded_with(METHODS["local"].partition(":")[0])


def test_every_method_is_built_from_its_own_section_and_the_terms_alone() -> None:
    changes = {
        "weights": "uniform",
        "linkage": "single",
        "min_silhouette": 0.2,
        "max_experts": 3,
        "fedlease__signal": "BA",
        "fedlease__average": "median",
        "fedlease__top_k": 2,
        "fedlease__reallocate": 2,
        "ifca__num_candidates": 3,
        "ifca__candidate_start": "clients",
        "feddpa__blend": 0.25,
        "fedtreelora__distance": "cosine",
    }
    settings = small_settings(**changes)
    built: dict[str, Any] = {name: build_method(settings, name, {}).method for name in known_methods()}
    assert (built["ifca"].num_candidates, built["ifca"].candidate_start) == (3, "clients")
    assert built["feddpa"].blend == 0.25
    assert (built["fedtreelora"].distance, built["fedtreelora"].linkage) == ("cosine", "single")
    assert all(method.weights == "uniform" for name, method in built.items() if name in ("fedit", "ifca", "feddpa"))
    selection = built["fedlease"].method
    paper = selection.method.method
    assert (selection.top_k, selection.method.every) == (2, 2)
    assert (paper.max_experts, paper.min_silhouette, paper.linkage, paper.weights) == (3, 0.2, "single", "uniform")
    assert (paper.grouping.signal, paper.means.mean) == ("BA", median)


def test_without_variations_fedlease_is_the_paper_and_a_door_for_newcomers() -> None:
    method = made("fedlease", Budget(1, 1))
    assert type(method).__name__ == "KeepOut" and type(method.method).__name__ == "FedLease"


def test_a_package_adds_a_method_by_an_entry_point(add: Any) -> None:
    add({"apart": "another_package:FACTS"})
    assert "apart" in known_methods() and load_method("apart") is build
    method = make_method("apart", TERMS)
    assert isinstance(method, Apart) and method.distance == "euclid", "no other method's setting reaches it"
    settings = small_settings(method="apart", baselines=[], fedtreelora__distance="cosine")
    assert build_method(settings, "apart", {}).method == Apart(Budget(*_budget(settings)), settings.weights)


def _budget(settings: Any) -> tuple[int, int, int]:
    return settings.warmup.epochs, settings.rounds, settings.train.local_epochs


def test_a_package_that_fails_is_named(add: Any) -> None:
    add({"apart": "another_package:lost"})
    with pytest.raises(ConfigError, match=r"fedlease.methods: 'apart' of the package .* cannot be imported: Attr"):
        load_method("apart")


def test_every_state_fulfils_the_protocol_that_server_and_users_read() -> None:
    from contract.planted import CLIENTS, adapter

    for name in METHODS:
        assert isinstance(made(name, Budget(1, 1)).init(adapter(), CLIENTS, 0), State), name


def test_every_method_of_the_table_states_its_source_or_purpose() -> None:
    for where in METHODS.values():
        module = import_module(where.partition(":")[0])
        assert module.__doc__ and len(module.__doc__.strip().splitlines()) >= 3
