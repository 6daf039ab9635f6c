"""When a step ends: after every reply, or after so many usable ones."""

from pathlib import Path
from typing import Any

import pytest
from small import EIGHT, rounds_of, small_run, small_settings, tensors_of

from fedlease.errors import ConfigError
from fedlease.runs.check import check_settings
from fedlease.server.schedule import SCHEDULES, FirstReplies, make_schedule

CLOSED = "the round was closed after 3 usable updates (schedule.replies)"


def test_a_round_closes_after_so_many_and_the_warm_up_waits_for_everyone(tmp_path: Path) -> None:
    changes: dict[str, Any] = {**EIGHT, "schedule__until": "first", "schedule__replies": 3, "rounds": 3}
    result = small_run(tmp_path / "r", **changes)
    warm_up, *rounds = rounds_of(result.out)
    assert len(warm_up["clients"]) == 8 and warm_up["left_out"] == {}
    assert [len(record["clients"]) for record in rounds] == [3, 3, 3]
    for record in rounds:
        assert record["refused"] == {} and len(record["left_out"]) == 5
        assert set(record["left_out"].values()) == {CLOSED} and record["averaged"] == 3
    assert len({tuple(record["clients"]) for record in rounds}) > 1, "the same clients are not always first"
    assert result.summary["num_clients"] == result.summary["averaged"] == 8


def test_over_flower_the_result_is_that_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import over_memory

    changes: dict[str, Any] = {"baselines": [], "schedule__until": "first", "schedule__replies": 3, "rounds": 2}
    small_run(tmp_path / "here", **changes)
    over_memory(small_settings(**changes), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")


def test_the_order_is_drawn_from_seed_and_round() -> None:
    clients = [f"c{i}" for i in range(9)]
    first = FirstReplies(2)
    assert first.order(clients, 1, 0) == first.order(clients, 1, 0) != first.order(clients, 2, 0)
    assert sorted(first.order(clients, 3, 0)) == clients
    assert make_schedule("all", 2).order(clients, 1, 0) == clients
    assert [bool(first.closes(1, usable)) for usable in (0, 1, 2)] == [False, False, True]
    assert not any(make_schedule("all", 1).closes(1, usable) for usable in range(9)) and not first.closes(0, 9)


def test_what_cannot_be_is_refused_beforehand() -> None:
    with pytest.raises(ConfigError, match=rf"schedule\.until: must be one of {', '.join(SCHEDULES)}, received 'noon'"):
        check_settings(small_settings(schedule__until="noon"))
    with pytest.raises(ConfigError, match=r"schedule\.replies: 2 usable updates close a round, min_clients asks for 3"):
        check_settings(small_settings(schedule__until="first", schedule__replies=2, min_clients=3))
