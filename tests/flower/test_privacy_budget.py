"""What all runs on a node's rows may spend together: entered before they train, and never forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import over_memory

from fedlease.config.privacy import PrivacySettings
from fedlease.errors import RulesError, RunFailedError
from fedlease.flower.policy import NodePolicy
from fedlease.flower.privacy_budget import LEDGER, PrivacyBudget


def entered(folder: Path, client: str, run: str, epsilon: float = 3.0, delta: float = 1e-5, **rules: Any) -> list[str]:
    """The rules that a run breaks."""
    try:
        PrivacyBudget(folder, NodePolicy(**rules)).enter(
            folder, client, run, PrivacySettings(epsilon=epsilon, delta=delta)
        )
    except RulesError as error:
        return list(error.rules)
    return []


def test_runs_of_a_client_add_up_and_a_run_counts_once(tmp_path: Path) -> None:
    """8 allows two runs of 3, not three; the other client's are its own."""
    most = {"max_total_epsilon": 8.0}
    assert [entered(tmp_path, "a", run, **most) for run in "ppqrq"] == [[], [], [], ["max-total-epsilon"], []]
    assert entered(tmp_path, "b", "r", **most) == []
    assert json.loads((tmp_path / LEDGER).read_text()) == {
        "a": {"p": [[3.0, 1e-5]], "q": [[3.0, 1e-5]]},
        "b": {"r": [[3.0, 1e-5]]},
    }


def test_deltas_add_up_too_and_sums_may_reach_their_bound(tmp_path: Path) -> None:
    rules = {"max_total_epsilon": 0.3, "max_total_delta": 3e-5}
    found = [entered(tmp_path, "a", run, 0.1, **rules) for run in "pqrs"]
    assert found == [[], [], [], ["max-total-epsilon", "max-total-delta"]]


def test_a_run_that_goes_on_with_another_epsilon_has_promised_both(tmp_path: Path) -> None:
    assert entered(tmp_path, "a", "p", 3.0) == entered(tmp_path, "a", "p", 4.0) == []
    assert entered(tmp_path, "a", "q", 1.5, max_total_epsilon=8.0) == ["max-total-epsilon"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a": 3}', '{"a": {"p": [[-3, 1e-5]]}}', '{"a": {"p": [[NaN, 1]]}}']
)
def test_a_ledger_that_cannot_be_read_is_no_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text(content)
    assert entered(tmp_path, "a", "p") == ["max-total-epsilon"]
    assert (tmp_path / LEDGER).read_text() == content


def test_a_node_takes_no_part_in_a_run_beyond_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first run is within the sum; another one is refused before it trains, and is not entered."""
    settings = small_settings(**{"privacy.epsilon": 8.0, "method": "local", "rounds": 1, "baselines": []})
    config = {"state-dir": str(tmp_path / "state"), "max-total-epsilon": 10.0}
    over_memory(settings, tmp_path / "one", hand_over=False, **config)
    ledger = json.loads((tmp_path / "state" / LEDGER).read_text())
    assert {len(runs) for runs in ledger.values()} == {1}
    assert "may have spent epsilon 8 at delta 1e-05 in 1 run" in caplog.text
    with pytest.raises(RunFailedError, match="max-total-epsilon"):
        over_memory(settings, tmp_path / "two", hand_over=False, **config)
    assert json.loads((tmp_path / "state" / LEDGER).read_text()) == ledger
