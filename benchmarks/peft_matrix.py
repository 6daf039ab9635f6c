"""PEFT's own behaviour tests, run with FedLeaseConfig instead of PEFT's methods: what a user of PEFT can rely on.

    python benchmarks/peft_matrix.py CHECKOUT

CHECKOUT is a copy of PEFT's repository at any version. Its tests run against its own sources, or against the PEFT that
is installed where it holds none.
"""

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
from output import Report, Table, Target, show

from fedlease.peft_plugin import FedLeaseConfig
from fedlease.peft_plugin.layer import MERGE_REFUSED

TESTS = Path("tests") / "test_custom_models.py"
RANK: dict[str, Any] = {"r": 2}
"""Rank of all adapters: the smallest layer of PEFT's model has two outputs."""

ROWS = [
    (f"Vanilla MLP {number} FedLEASE", "MLP", FedLeaseConfig, {**RANK, **settings})
    for number, settings in enumerate(
        (
            {"target_modules": "lin0"},
            {"target_modules": ["lin0"]},
            {"target_modules": ["lin1"]},
            {"target_modules": ["lin0", "lin1"]},
            {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
            {"target_modules": ["lin0", "lin1"], "modules_to_save": ["lin1"]},
            {"target_modules": ["lin0"], "mixer": "softmax"},
            {"target_modules": ["lin0", "lin1"], "mixer": "scalar", "num_experts": 2},
            {"target_modules": ["lin0", "lin1"], "mixer": "none", "num_experts": 1},
        ),
        1,
    )
]
"""Name, model, configuration and its settings: the six that PEFT's table has for every method, and our mixers."""

RANDOM: dict[str, Any] = {**RANK, "init_weights": False}
PAIRS = [
    (f"FedLEASE {name}", "fedlease", FedLeaseConfig, {**RANDOM, "target_modules": a}, {**RANDOM, "target_modules": b})
    for name, a, b in (("Same", ["lin0"], ["lin0"]), ("Different", ["lin0"], ["lin1"]))
]
"""Configurations of two adapters that are active at once."""


@dataclass
class OneExpert(FedLeaseConfig):
    """A configuration for tests that take a class without settings; freezes nothing."""

    num_experts: int = 1


TABLES: dict[str, list[Any]] = {
    "TEST_CASES": ROWS,
    "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": PAIRS,
    "ALL_PEFT_CONFIG_CLASSES": [FedLeaseConfig, OneExpert],
}
"""Name of a list that PEFT's tests are parametrised with -> our rows for it."""

ALL_TRAINABLE = {
    "test_set_requires_grad",
    "test_loading_model_requires_grad_set_correctly",
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly",
}
"""Tests that require all parameters of an adapter to be trainable; the experts of others are frozen."""

MERGING, FROZEN = "refused: merging", "expected: experts of others are frozen"
OUTCOMES = ("passed", "skipped", MERGING, FROZEN, "failed")
UNUSED = ("datasets", "diffusers")
"""Packages that PEFT's test modules import although the tests selected here do not use them."""


@dataclass
class Matrix:
    """The pytest plugin that puts our rows into PEFT's tables and records every test's outcome.

    Attributes:
        outcomes: test -> one of ``OUTCOMES``.
        raised: test -> the first line of what it raised.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    raised: dict[str, str] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Changes the lists in place, since the marks of the tests refer to the same objects."""
        for name, rows in TABLES.items():
            table = getattr(metafunc.module, name, None)
            if isinstance(table, list):
                table[:] = rows

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselects tests that have none of our rows."""
        config.hook.pytest_deselected(items=[item for item in items if configuration(item) is None])
        items[:] = [item for item in items if configuration(item) is not None]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Records a test's call, or its setup or teardown if that did not pass."""
        report = yield
        if report.when == "call" or not report.passed:
            error = call.excinfo.value if call.excinfo else None
            self.outcomes[item.nodeid] = judged(
                report.outcome, error, getattr(item, "originalname", ""), configuration(item)
            )
            self.raised[item.nodeid] = (
                "" if error is None else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
        return report


def configuration(item: pytest.Item) -> type[FedLeaseConfig] | None:
    """Name of our configuration class in a test's id."""
    call = getattr(item, "callspec", None)
    values = call.params.values() if call is not None else ()
    return next((v for v in values if isinstance(v, type) and issubclass(v, FedLeaseConfig)), None)


def judged(outcome: str, error: BaseException | None, test: str, config: type[FedLeaseConfig] | None) -> str:
    """Sorts an outcome into ``OUTCOMES``, which distinguish what FEDLEASE refuses on purpose from a fault."""
    if outcome != "failed":
        return outcome
    if MERGE_REFUSED in str(error):
        return MERGING
    return FROZEN if test in ALL_TRAINABLE and config is FedLeaseConfig else "failed"


def report(matrix: Matrix, checkout: Path) -> Report:
    """Formats the counts by outcome, the failures by kind, and the name of every failure."""
    counts = Counter(matrix.outcomes.values())
    failed = sorted(name for name, outcome in matrix.outcomes.items() if outcome == "failed")
    kinds = Counter(matrix.raised[name] for name in failed)
    rows = [[name, str(counts[name])] for name in OUTCOMES]
    tables = [Table("Outcomes", ["outcome", "tests"], rows, [f"PEFT {peft.__version__}, tests of {checkout}."])]
    if failed:
        named = [[name.partition("::")[2], matrix.raised[name]] for name in failed]
        tables.append(Table("Failures by kind", ["raised", "tests"], [[k, str(n)] for k, n in kinds.most_common()]))
        tables.append(Table("Failures", ["test", "raised"], named))
    target = Target("tests that fail: none", str(len(failed)), bool(counts["passed"]) and not failed)
    return Report("Does FEDLEASE behave as PEFT's own tests want a method to?", tables, [target])


def run(checkout: Path) -> Matrix:
    """Runs the tests of a checkout in this process.

    Raises:
        FileNotFoundError: it holds no such tests.
    """
    if not (checkout / TESTS).is_file():
        raise FileNotFoundError(
            f"CHECKOUT: {checkout} holds no {TESTS}; give the folder of a copy of PEFT's repository"
        )
    matrix = Matrix()
    for name in UNUSED:
        if find_spec(name) is None:
            sys.modules[name] = stand_in(name)
    with chdir(checkout):
        # Their options want packages for coverage, ours make warnings errors.
        options = [
            "-q",
            "--no-header",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            str(checkout),
        ]
        pytest.main([str(TESTS), *options], plugins=[matrix])
    return matrix


def stand_in(name: str) -> ModuleType:
    """An empty package from which any name can be imported, as an empty class."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
    return module


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 where a test fails or none passes, 2 without such tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a copy of PEFT's repository")
    checkout = parser.parse_args(arguments).checkout.resolve()
    source = checkout / "src"
    if (source / "peft").is_dir() and source not in Path(peft.__file__).parents:
        # PEFT is already imported here; a new process imports the checkout's.
        environment = {**os.environ, "PYTHONPATH": str(source)}
        return subprocess.run([sys.executable, __file__, str(checkout)], env=environment).returncode
    try:
        found = report(run(checkout), checkout)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    show(found)
    return 0 if all(target.met for target in found.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
