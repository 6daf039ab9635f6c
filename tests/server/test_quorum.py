"""``min_clients``: what cannot be met is refused before anything is trained, what is not met stops the step."""

from pathlib import Path
from typing import Any

import pytest
from small import EIGHT, own_rows, rounds_of, small_run, small_settings

from fedlease.client.training import Trainer
from fedlease.errors import ConfigError, TooFewUpdatesError, UpdateRefusedError
from fedlease.runs.check import check_settings
from fedlease.runs.runner import resume
from fedlease.server.participation import Participation


def refuse(monkeypatch: pytest.MonkeyPatch, clients: set[str], tries: int = 99) -> None:
    """Lets the local steps of some clients fail so many times."""
    honest, seen = Trainer.train, dict.fromkeys(clients, 0)

    def step(self: Trainer, who: str, *args: Any) -> Any:
        if who in seen and seen[who] < tries:
            seen[who] += 1
            raise UpdateRefusedError(who, "loss is nan")
        return honest(self, who, *args)

    monkeypatch.setattr(Trainer, "train", step)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"min_clients": 9}, "min_clients: 9 usable updates are needed in every step, and there are 8 clients"),
        (
            {"min_clients": 3, "clients_per_round": 3},
            "min_clients: 3 usable updates are needed in every step, and the warm-up asks 8 clients in 3 waves of at "
            "most clients_per_round = 3, the smallest of 2",
        ),
    ],
)
def test_a_quorum_that_cannot_be_met_is_refused_by_run_and_check(
    changes: dict[str, Any], rule: str, tmp_path: Path
) -> None:
    for attempt in (lambda: small_run(tmp_path / "r", **EIGHT, **changes), lambda: check(changes)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert len(caught.value.faults) == 1 and caught.value.faults[0].startswith(rule)
    assert not (tmp_path / "r").exists()


def check(changes: dict[str, Any]) -> Any:
    return check_settings(small_settings(**EIGHT, **changes))


def test_a_method_without_a_warm_up_has_no_waves(tmp_path: Path) -> None:
    result = small_run(tmp_path / "r", method="fedit", **EIGHT, min_clients=3, clients_per_round=3, rounds=1)
    assert result.summary["mean"] is not None


def test_waves_are_as_even_as_can_be_and_second_tries_come_last() -> None:
    three = Participation(clients_per_round=4, min_clients=3)
    due: dict[str, Any] = dict.fromkeys("abcdefghi", "its task")
    assert three.quorum_fault(9, waves=True) == ""
    assert list(three.choose("abcdefghi", due.get, 0, 0)) == ["a", "b", "c"]
    assert list(three.choose("adefghi", due.get, 0, 0, refused={"a"})) == ["d", "e", "f"]
    assert list(three.choose("a", due.get, 0, 0, refused={"a"})) == ["a"]
    assert "the smallest of 2" in three.quorum_fault(5, waves=True)
    assert three.quorum_fault(5, waves=False) == three.quorum_fault(4, waves=True) == ""


def test_a_wave_without_its_quorum_stops_with_every_reason_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, {"planted-0-0", "planted-0-1"})
        message = (
            r"round 0: 2 usable updates, min_clients asks for 3. planted-0-0: loss is nan; planted-0-1: loss is nan"
        )
        with pytest.raises(TooFewUpdatesError, match=message):
            small_run(tmp_path / "r", **EIGHT, rounds=1, clients_per_round=4, min_clients=3)
    assert [sorted(line["refused"]) for line in rounds_of(tmp_path / "r")] == [["planted-0-0", "planted-0-1"]]
    assert resume(tmp_path / "r")["fedlease"].num_clients == 8


def test_second_tries_alone_do_not_stop_a_warm_up_that_had_its_quorum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, {"planted-0-0"}, tries=2)
    result = small_run(tmp_path / "r", **EIGHT, rounds=2, clients_per_round=4, min_clients=3)
    lines = rounds_of(result.out)
    assert [(line["round"], sorted(line["refused"])) for line in lines[:3]] == [
        (0, ["planted-0-0"]), (0, []), (0, ["planted-0-0"]),
    ]  # fmt: skip


def test_unlike_label_lists_are_refused_before_the_warm_up_where_any_clients_may_meet(tmp_path: Path) -> None:
    """The planted federation has a task with three labels."""
    for method in ("fedlease", "ifca", "fedtreelora", "fedit"):
        with pytest.raises(ConfigError, match=rf"head: 'shared' .* {method} .*\('planted-|data.labels") as caught:
            small_run(tmp_path / "r", method=method, **EIGHT, head="shared")
        (fault,) = caught.value.faults
        assert "clients 'planted-0-0', 'planted-0-1'" in fault and "head=local" in fault
    assert not (tmp_path / "r").exists()


def test_heads_of_groups_that_are_known_to_agree_are_shared(tmp_path: Path) -> None:
    groups = {f"planted-{task}-{n}": task for task in range(4) for n in range(2)}
    given: dict[str, Any] = {"fedlease__grouping": "given", "fedlease__assignment": groups}
    changes: dict[str, Any] = {**EIGHT, "head": "shared", "rounds": 0}
    assert small_run(tmp_path / "given", **given, **changes).summary["head_bytes_up"] > 0


def test_a_quorum_counts_over_flower(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import over_memory

    settings: dict[str, Any] = {"data__path": str(own_rows(tmp_path / "rows")), "baselines": [], "min_clients": 5}
    with pytest.raises(ConfigError, match=r"^min_clients: 5 usable updates are needed .* there are 4 clients"):
        over_memory(small_settings(**settings), tmp_path / "r")
    assert not (tmp_path / "r/config.yaml").exists()
