"""Nodes that die, come back, lose what they had, or may not take part; and servers that are killed."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.faults import BAD, CLIENT, few, nth, of_round, run, state_at
from flower.nodes import Stopped, grid_of, over_memory, stop_after
from flwr.app import Error, Message, RecordDict

from fedlease.core.codec import loads
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import write_folder
from fedlease.errors import ConfigError, DataError, RunFailedError, RunFolderError
from fedlease.flower import strategy as strategy_module
from fedlease.flower.clientapp import client_app
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.models.tiny import make_tiny
from fedlease.tasks.classification import Classification
from fedlease.use.load import load


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The run without any fault: its summary and its folder."""
    folder = tmp_path_factory.mktemp("honest")
    return run(folder)[0], folder / "r"


class TestRestart:
    """The server is started again after round 1, and the nodes are not those of before."""

    def begun(self, out: Path, **changes: Any) -> tuple[Any, MemoryGrid]:
        settings = few(**changes)
        grid = grid_of(settings)
        with pytest.raises(Stopped):
            FedLeaseStrategy(settings, out, [stop_after(1)]).start(grid)
        return settings, grid

    def test_a_client_that_is_away_is_still_one_of_the_run(self, tmp_path: Path) -> None:
        settings, grid = self.begun(tmp_path / "r")
        grid.leave(BAD)
        strategy = FedLeaseStrategy(settings, tmp_path / "r")
        strategy.start(grid)
        refused = [(r["round"], r["refused"]) for r in rounds_of(tmp_path / "r") if r["refused"]]
        assert refused == [(2, {CLIENT: "is not connected"})]
        assert CLIENT in json.loads((tmp_path / "r/clients.json").read_text())
        assert CLIENT in strategy.summaries["fedlease"]["assignment"]

    def test_one_that_came_meanwhile_is_a_newcomer(self, tmp_path: Path) -> None:
        settings, grid = self.begun(tmp_path / "r")
        rows = write_folder([next(iter(load_federation(settings.data, 1)))], tmp_path / "rows")
        grid.join(5, {"data-dir": str(rows / CLIENT), "client-id": "new"})
        strategy = FedLeaseStrategy(settings, tmp_path / "r")
        strategy.start(grid)
        state = loads((tmp_path / "r/state" / state_at(tmp_path / "r")["file"]).read_bytes())
        assert state.inner.newcomers == {"new"} and "new" in state.inner.clients
        assert "new" in json.loads((tmp_path / "r/clients.json").read_text())

    def test_one_that_comes_back_with_other_rows_is_rejected(self, tmp_path: Path) -> None:
        settings, grid = self.begun(tmp_path / "r")
        other = next(iter(load_federation(settings.data, 1)))
        rows = write_folder([other], tmp_path / "rows")
        grid.join(BAD, {"data-dir": str(rows / CLIENT), "client-id": CLIENT})
        with pytest.raises(ConfigError, match=r"client 'planted-0-0' came back with other rows or labels"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_one_whose_base_model_has_changed_since_is_refused(self, tmp_path: Path) -> None:
        make_tiny(tmp_path / "model", seed=5)
        settings = few()
        grid = grid_of(settings)

        def change(event: Any) -> None:
            if type(event).__name__ == "StepFinished" and event.record["round"] == 0:
                grid.contexts[BAD].node_config["model"] = str(tmp_path / "model")

        FedLeaseStrategy(settings, tmp_path / "r", [change]).start(grid)
        reasons = [r["refused"].get(CLIENT, "") for r in rounds_of(tmp_path / "r")]
        assert reasons[0] == "" and all("is not the server's" in why for why in reasons[1:])


def test_what_the_settings_say_is_refused_as_an_argument(tmp_path: Path) -> None:
    settings = small_settings()
    with pytest.raises(ConfigError, match=r"start: it takes only the grid"):
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings), num_rounds=3)


def test_a_repeated_reply_counts_once(honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The round that hears an answer twice gives what the round that hears it once gives."""
    settings = few()
    grid = grid_of(settings)
    inner = grid.send_and_receive
    grid.send_and_receive = lambda messages, *, timeout=None: [  # type: ignore[method-assign]
        reply for reply in inner(messages, timeout=timeout) for _ in range(2)
    ]
    strategy = FedLeaseStrategy(settings, tmp_path / "two")
    strategy.start(grid)
    assert state_at(tmp_path / "two") == state_at(honest[1])
    assert strategy.summaries["fedlease"]["mean"] == honest[0]["mean"]


@pytest.mark.parametrize("when", ["warm-up", "round", "after upload"])
def test_a_node_that_dies_is_left_out_from_then_on(when: str, tmp_path: Path) -> None:
    grids: list[MemoryGrid] = []

    def fault(message: Message, reply: Message) -> Message | None:
        number = 0 if when == "warm-up" else 1
        if reply.metadata.src_node_id != BAD or not of_round(message, number):
            return reply
        del grids[0].contexts[BAD]
        return reply if when == "after upload" else None

    def spoil(grid: MemoryGrid) -> None:
        grids.append(grid)
        grid.faults.append(fault)

    summaries, _ = over_memory(few(), tmp_path / "r", prepare=spoil, hand_over=False)
    summary, records = summaries["fedlease"], rounds_of(tmp_path / "r")
    refused = [(r["round"], why) for r in records for client, why in r["refused"].items() if client == CLIENT]
    assert [why for _, why in refused][-1] == "is not connected"
    assert {number for number, _ in refused} == {"warm-up": {0, 1, 2}, "round": {1, 2}, "after upload": {2}}[when]
    # It has no scores of its own, and the summary says so.
    assert (summary["averaged"], summary["num_clients"]) == (3, 4) and CLIENT not in summary["per_client"]
    assert summary["left_out"] == {CLIENT: "it did not answer at the end: is not connected"}
    assert any(CLIENT in warning and "not scored" in warning for warning in summary["warnings"])


def test_too_few_replies_stop_the_run_and_name_every_reason(tmp_path: Path) -> None:
    def silent(message: Message, reply: Message) -> Message | None:
        return None if of_round(message, 1) and reply.metadata.src_node_id > 898 else reply

    with pytest.raises(RunFailedError, match=r"round 1: 2 usable updates, min_clients asks for 3.*0-0: did not"):
        run(tmp_path, silent, min_clients=3)


def test_a_killed_server_resumes_from_the_last_round(honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Nodes keep what is private meanwhile; the end is that of a run without the kill."""
    settings = few()
    grid = grid_of(settings)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "two", [stop_after(1)]).start(grid)
    trained = sum(kind.startswith("train.") for kind, _ in grid.log)
    strategy = FedLeaseStrategy(settings, tmp_path / "two")
    strategy.start(grid)
    assert strategy.summaries["fedlease"]["per_client"] == honest[0]["per_client"]
    assert sum(kind.startswith("train.") for kind, _ in grid.log) == trained + 4, "one round was left"
    assert state_at(tmp_path / "two") == state_at(honest[1])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    settings = few(rounds=1)
    grid = grid_of(settings)
    FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    asked = len(grid.log)
    again = FedLeaseStrategy(settings, tmp_path / "r")
    again.start(grid)
    assert len(grid.log) == asked and again.summaries["fedlease"]["num_clients"] == 4


class TestLostState:
    def kill_once(self, grid: MemoryGrid) -> None:
        """The bad node's SuperNode is restarted before the second round."""
        seen = 0

        def fault(message: Message, reply: Message) -> Message:
            nonlocal seen
            if reply.metadata.src_node_id == BAD and of_round(message, 1):
                seen += 1
                if seen == 1:
                    grid.contexts[BAD].state = RecordDict()
                    config = grid.contexts[BAD].node_config
                    grid.join(BAD, config)
            return reply

        grid.faults.append(fault)

    def test_a_node_without_a_folder_notes_what_it_lost_and_continues(self, tmp_path: Path) -> None:
        settings = few()
        over_memory(settings, tmp_path / "r", prepare=self.kill_once, hand_over=False)
        notes = {
            (r["round"], client): entry["notes"]
            for r in rounds_of(tmp_path / "r")
            for client, entry in r["clients"].items()
            if "notes" in entry
        }
        assert set(notes) == {(2, CLIENT)}
        assert notes[2, CLIENT] == ["has lost its private tensors, and continued from what the server sent"]

    def test_with_a_folder_nothing_is_lost(self, honest: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
        settings = few()
        found, _ = over_memory(
            settings, tmp_path / "two", prepare=self.kill_once, hand_over=False, **{"state-dir": str(tmp_path / "own")}
        )
        assert not any("notes" in e for r in rounds_of(tmp_path / "two") for e in r["clients"].values())
        assert found["fedlease"]["per_client"] == honest[0]["per_client"]


class TestWhoMayTakePart:
    def test_two_nodes_with_one_client_id(self, tmp_path: Path) -> None:
        settings = small_settings()
        grid = grid_of(settings)
        grid.join(7, {"partition-id": 0, "num-partitions": 4})
        with pytest.raises(ConfigError, match=r"client 'planted-0-0' is claimed by two nodes, .*own client-id"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)
        assert ("query.rejected", 7) in grid.log or ("query.rejected", 900) in grid.log
        assert not (tmp_path / "r" / "config.yaml").exists()

    def test_another_version(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(strategy_module, "__version__", "9.9")
        settings = small_settings()
        with pytest.raises(ConfigError, match=r"'planted-0-0': this node has fedlease .*, the server has 9.9"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_another_model(self, tmp_path: Path) -> None:
        make_tiny(tmp_path / "model", seed=5)
        settings = small_settings()
        grid = grid_of(settings)
        grid.contexts[900].node_config["model"] = str(tmp_path / "model")
        with pytest.raises(ConfigError, match=r"'planted-0-0': the base model .* on this node .* is not the server's"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_a_missing_folder_of_rows(self, tmp_path: Path) -> None:
        settings = small_settings()
        grid = grid_of(settings)
        grid.contexts[900].node_config = {"data-dir": str(tmp_path / "nowhere")}
        with pytest.raises(ConfigError, match=r"data-dir: .*nowhere' does not exist on this node"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_rows_of_which_the_tokenizer_makes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are found when the node introduces itself, not in the first step."""
        inner = Classification.encode

        def encode(self: Any, rows: Any, *others: Any) -> Any:
            if {row.text for row in rows} == {row.text for row in bad.train}:
                raise DataError(["no token", "no token either"])
            return inner(self, rows, *others)

        settings = small_settings(baselines=[])
        bad = next(c for c in load_federation(settings.data, settings.seed) if c.id == CLIENT)
        monkeypatch.setattr(Classification, "encode", encode)
        with pytest.raises(ConfigError, match=r"partition 0: its rows cannot be used; 2 faults, in the log"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_too_few_nodes(self, tmp_path: Path) -> None:
        settings = small_settings(**{"flower.min_nodes": 9, "flower.wait": 0.1})
        with pytest.raises(
            RunFailedError, match=r"flower.min_nodes: needs 9 clients, 4 reported within 0.1 s: planted"
        ):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))

    def test_a_masking_mod(self) -> None:
        def secaggplus_mod(message: Any, context: Any, call_next: Any) -> Any:
            return call_next(message, context)

        with pytest.raises(ConfigError, match=r"secaggplus_mod masks only messages of type 'train'"):
            client_app(mods=[secaggplus_mod])

    def test_centralised(self, tmp_path: Path) -> None:
        settings = small_settings(method="centralised")
        with pytest.raises(ConfigError, match=r"pools the rows of all clients, which are on other machines"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))


def test_the_run_folder_does_not_pass_off_a_model_without_its_private_part(honest: tuple[Any, Path]) -> None:
    with pytest.raises(RunFolderError, match=r"planted-0-0.* has a part of its model .* on its own machine"):
        load(honest[1], CLIENT)


def test_what_a_node_has_is_not_sent_again(tmp_path: Path) -> None:
    """FFA-LoRA's A is frozen: it goes down once, then B alone."""
    over_memory(small_settings(method="ffa-lora", baselines=[]), tmp_path / "r", hand_over=False)
    down = [record["bytes_down"] for record in rounds_of(tmp_path / "r")]
    # Four modules of 32 x 32, rank 4, four clients; B is zero at first, equal in all modules, and sent once.
    a, b = 4 * 4 * 32 * 4 * 4, 4 * 4 * 32 * 4 * 4
    assert down == [a + b // 4, b, b]


def test_a_reply_that_arrives_after_the_deadline_is_not_used(tmp_path: Path) -> None:
    """Neither in its round, which is over, nor in the next; and the client drops what it had trained."""
    silent, _ = run(tmp_path / "one", nth(1, 1, lambda message, reply: None))
    settings = few()
    grid = grid_of(settings)
    withheld: list[Message] = []

    def late(message: Message, reply: Message) -> None:
        withheld.append(reply)

    def arrive(event: Any) -> None:
        if type(event).__name__ == "StepFinished" and event.record["round"] == 1:
            (reply,) = withheld
            grid.arrive(reply)

    grid.faults.append(nth(1, 1, late))
    strategy = FedLeaseStrategy(settings, tmp_path / "two", [arrive])
    strategy.start(grid)
    (refused,) = [r["refused"] for r in rounds_of(tmp_path / "two") if r["refused"]]
    assert refused == {CLIENT: "did not answer within 3600 s (flower.deadline)"}
    assert state_at(tmp_path / "two") == state_at(tmp_path / "one/r")
    assert strategy.summaries["fedlease"]["per_client"] == silent["per_client"]


def test_a_node_that_stops_reporting_while_it_is_asked_is_named_and_asked_again(tmp_path: Path) -> None:
    """What a SuperLink answers in its place."""

    def gone(message: Message, reply: Message) -> Message:
        error = Message(Error(5, "Error: Node Unavailable"), reply_to=message)
        error.metadata.__dict__["_src_node_id"] = 1
        return error

    summary, records = run(tmp_path, nth(1, 1, gone))
    assert [r["refused"] for r in records] == [
        {},
        {CLIENT: "was lost while it was asked: its SuperNode stopped reporting"},
        {},
    ]
    assert summary["num_clients"] == 4


def test_a_node_that_is_gone_when_it_is_asked_who_it_is_is_asked_again(tmp_path: Path) -> None:
    asked = 0

    def gone(message: Message, reply: Message) -> Message:
        nonlocal asked
        if message.metadata.message_type != "query.hello" or reply.metadata.src_node_id != BAD:
            return reply
        asked += 1
        return Message(Error(5, "Error: Node Unavailable"), reply_to=message) if asked == 1 else reply

    summary, records = run(tmp_path, gone)
    assert asked == 2 and summary["num_clients"] == 4 and not any(r["refused"] for r in records)
