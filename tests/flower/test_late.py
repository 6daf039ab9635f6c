"""Clients that come after the allocation: warmed up, placed, and taking part; or unlike every expert, and kept out."""

from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import Stopped, grid_of, stop_after
from flwr.app import Message

from fedlease.data.load import load_federation
from fedlease.data.sources.folder import write_folder
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.server.events import Listener, StepFinished

LATE = "latecomer"
ROUNDS = 3
FEW: dict[str, Any] = {"baselines": [], "rounds": ROUNDS, "data__clients_per_task": 1}


def join_after(grid: MemoryGrid, number: int, folder: Path) -> Listener:
    def listener(event: Any) -> None:
        if isinstance(event, StepFinished) and event.record["round"] == number:
            grid.join(5, {"data-dir": str(folder), "client-id": LATE})

    return listener


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of a client of the planted federation that the run does not have: another seed draws others."""
    settings = small_settings()
    (client,) = [c for c in load_federation(settings.data, 1) if c.id == "planted-1-0"]
    return write_folder([client], tmp_path / "rows") / client.id


def late_run(out: Path, folder: Path, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = small_settings(**{**FEW, **changes})
    grid = grid_of(settings)
    strategy = FedLeaseStrategy(settings, out, [join_after(grid, 1, folder)])
    strategy.start(grid)
    return strategy.summaries[settings.method], rounds_of(out)


@pytest.mark.parametrize("method", ["fedit", "local", "fedsa-lora", "ifca", "fedalt", "feddpa", "fedtreelora"])
def test_under_other_methods_it_takes_part_from_the_next_round(method: str, tmp_path: Path, folder: Path) -> None:
    summary, records = late_run(tmp_path / "r", folder, method=method, rounds=2)
    asked = [r["round"] for r in records if LATE in r["clients"]]
    assert asked and min(asked) == 2
    assert summary["num_clients"] == 5 and LATE in summary["per_client"]
    assert not any(r["refused"] for r in records)


def test_it_has_the_rank_that_the_settings_name_for_it(tmp_path: Path, folder: Path) -> None:
    unequal = {"fedlease__signal": "BA", "fedlease__average": "product", "fedlease__unlike": "place"}
    summary, records = late_run(tmp_path / "r", folder, lora__r={"default": 4, LATE: 2}, **unequal)
    assert [r["round"] for r in records if LATE in r["clients"]] == [2, 3]
    assert LATE in summary["per_client"] and LATE in summary["assignment"]
    assert not any(r["refused"] for r in records)


def test_one_for_which_the_settings_name_no_rank_is_turned_away(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = {client.id: 4 for client in load_federation(small_settings().data, 0)}
    summary, records = late_run(tmp_path / "r", folder, lora__r={**ranks, "planted-0-0": 2}, method="local")
    assert not any(LATE in r["clients"] for r in records) and LATE not in summary["per_client"]
    assert f"lora.r: names no rank for client {LATE!r}; add it, or default for all others" in caplog.text


def test_it_warms_up_is_placed_and_trains_with_the_nearest_expert(tmp_path: Path, folder: Path) -> None:
    summary, records = late_run(tmp_path / "r", folder, fedlease__unlike="place")
    assert [r["round"] for r in records if LATE in r["clients"]] == [2, 3]
    warnings = [line for line in summary["warnings"] if line.startswith(f"client {LATE!r}")]
    assert len(warnings) == 1 and "came late and was placed with expert" in warnings[0]
    expert = summary["assignment"][LATE]
    assert f"expert {expert + 1} at distance" in warnings[0]
    assert summary["num_clients"] == 5
    # Its warm-up goes up whole, then expert and router.
    assert "own_expert" in summary["per_client"][LATE]


def test_one_unlike_every_expert_waits_until_it_is_admitted(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from fedlease.core.placement import Centroids

    honest = Centroids.place
    monkeypatch.setattr(Centroids, "place", lambda known, tensors: replace(honest(known, tensors), unlike=True))
    settings = small_settings(**FEW)
    grid = grid_of(settings)

    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [join_after(grid, 1, folder), stop_after(2)]).start(grid)
    # Once more: still kept out, as long as nobody admits it.
    outside = FedLeaseStrategy(settings, tmp_path / "r", [stop_after_start])
    with pytest.raises(RuntimeError, match="seen enough"):
        outside.start(grid)
    assert not any(LATE in r["clients"] for r in rounds_of(tmp_path / "r") if r["round"] == 3)

    admitted = small_settings(**FEW, fedlease__admitted=[LATE])
    strategy = FedLeaseStrategy(admitted, tmp_path / "r")
    strategy.start(grid)
    summary = strategy.summaries["fedlease"]
    wording = [line for line in summary["warnings"] if line.startswith(f"client {LATE!r}")]
    assert "is kept out: it is unlike every expert" in wording[0] and "add it to fedlease.admitted" in wording[0]
    assert "was placed with expert" in wording[1]
    assert LATE in summary["assignment"]


def stop_after_start(event: Any) -> None:
    if type(event).__name__ == "StepStarted":
        assert LATE not in event.clients
        raise RuntimeError("seen enough")


def test_a_restarted_node_with_another_id_takes_its_client_over_once_the_old_one_is_gone(tmp_path: Path) -> None:
    settings = small_settings(**FEW)
    grid = grid_of(settings)
    config = dict(grid.contexts[900].node_config)

    def restart(event: Any) -> None:
        if not isinstance(event, StepFinished):
            return
        if event.record["round"] == 0:
            grid.join(7, config)  # the old node is not given up yet
        if event.record["round"] == 1:
            grid.leave(900)

    strategy = FedLeaseStrategy(settings, tmp_path / "r", [restart])
    strategy.start(grid)
    kinds = [kind for kind, node in grid.log if node == 7]
    # Turned away before the first round, taken in before the second.
    assert kinds.count("query.rejected") == 1 and kinds.count("query.hello") == 2
    assert kinds.count("train.task") == 2
    assert not any(r["refused"] for r in rounds_of(tmp_path / "r"))
    assert strategy.summaries["fedlease"]["num_clients"] == 4


def test_one_that_takes_long_to_say_who_it_is_holds_up_nobody(tmp_path: Path, folder: Path) -> None:
    settings = small_settings(**FEW, method="fedit")
    grid = grid_of(settings)
    withheld: list[Message] = []

    def slowly(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != "query.hello" or reply.metadata.src_node_id != 5:
            return reply
        withheld.append(reply)
        return None

    def say(event: Any) -> None:
        if isinstance(event, StepFinished) and event.record["round"] == 2:
            (reply,) = withheld
            grid.arrive(reply)

    grid.faults.append(slowly)
    FedLeaseStrategy(settings, tmp_path / "r", [join_after(grid, 1, folder), say]).start(grid)
    assert [r["round"] for r in rounds_of(tmp_path / "r") if LATE in r["clients"]] == [3, 4]
    assert sum(kind == "query.hello" and node == 5 for kind, node in grid.log) == 1, "asked once"
