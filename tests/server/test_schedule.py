"""When a step ends: after every reply, after so many usable ones, or after so many seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import EIGHT, rounds_of, small_run, small_settings, tensors_of

from fedlease.client.messages import Trained
from fedlease.client.worker import ClientWorker
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


DEADLINE: dict[str, Any] = {"schedule__until": "deadline", "schedule__seconds": 40.0, "rounds": 2}
LATE = "did not reply within 40 s (schedule.seconds)"
SLOW = "planted-1-0"


def slow(reply: Any, seconds: float, client: str = SLOW) -> Any:
    """A reply of a client whose work took so long, its scoring one second of it."""
    if isinstance(reply, Trained) and reply.update.client == client:
        return replace(reply, train_seconds=seconds - 1, evaluate_seconds=1.0)
    return reply


@pytest.mark.parametrize(("seconds", "is_late"), [(40.0, False), (40.5, True)])
def test_who_works_longer_is_left_out_of_rounds_and_not_of_the_warm_up(
    seconds: float, is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = ClientWorker.handle
    monkeypatch.setattr(ClientWorker, "handle", lambda self, request: slow(handle(self, request), seconds))
    result = small_run(tmp_path / "r", method="fedlease", **DEADLINE)
    warm_up, *rounds = rounds_of(result.out)
    assert SLOW in warm_up["clients"] and warm_up["left_out"] == {}
    for record in rounds:
        assert (SLOW in record["clients"]) is not is_late and record["refused"] == {}
        assert record["left_out"] == ({SLOW: LATE} if is_late else {})
        assert len(record["clients"]) == (3 if is_late else 4)
    assert SLOW in result.summary["per_client"]


def test_over_flower_nobody_waits_longer_and_who_is_late_is_named_alike(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import MemoryGrid, kind_of, over_memory

    waits: list[tuple[str, float]] = []

    def prepare(grid: MemoryGrid) -> None:
        def fault(message: Any, reply: Any) -> Any:
            waits.append((kind_of(message), message.metadata.ttl))
            silent = kind_of(message) == "train.experts" and message.metadata.dst_node_id == 899
            return None if silent else reply  # planted-1-0, see grid_of

        grid.faults.append(fault)

    settings = small_settings(**{**DEADLINE, "rounds": 1})
    summaries, _ = over_memory(settings, tmp_path / "r", prepare=prepare)
    assert {ttl for kind, ttl in waits if kind == "train.experts"} == {40.0}
    assert {ttl for kind, ttl in waits if kind == "train.warmup"} == {settings.flower.deadline}
    record = rounds_of(tmp_path / "r")[1]
    assert record["left_out"] == {SLOW: LATE} and record["refused"] == {}
    assert SLOW in summaries["fedlease"]["per_client"]


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
    with pytest.raises(
        ConfigError, match=r"schedule\.seconds: must be given if schedule\.until is deadline, received No"
    ):
        check_settings(small_settings(schedule__until="deadline"))
    with pytest.raises(
        ConfigError, match=r"schedule\.seconds: is only used if .* is deadline, received 5 with 'first'"
    ):
        check_settings(small_settings(schedule__until="first", schedule__seconds=5))
    with pytest.raises(ConfigError, match=r"schedule\.seconds: .*received (0|inf)"):
        small_settings(schedule__seconds=0)
    with pytest.raises(
        ConfigError, match=r"schedule\.replies: 2 usable updates close a round, but min_clients asks for 3"
    ):
        check_settings(small_settings(schedule__until="first", schedule__replies=2, min_clients=3))
