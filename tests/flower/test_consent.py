"""What may leave a node: updates and scores; the rest only as the node's own machine allows."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import grid_of
from flwr.app import Message

from fedlease.client.messages import Finished
from fedlease.config.settings import Settings
from fedlease.errors import ConfigError, DataError, RunFailedError, RunFolderError
from fedlease.flower.handler import refusal_of
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import unpack

NODE = 900
GENERATION: dict[str, Any] = {
    "task": "generation",
    "data.max_tokens": 40,
    "generation.max_new_tokens": 6,
    "baselines": [],
    "rounds": 1,
    "data.clients_per_task": 1,
}
"""Where samples of test rows are kept."""
FEW: dict[str, Any] = {"baselines": [], "rounds": 2, "data.clients_per_task": 1}


def asked(settings: Settings, out: Path, grid: MemoryGrid) -> list[Any]:
    """What came back at the end, with a server that asks for everything."""
    answers = []

    def look(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "evaluate.finish":
            answers.append(unpack(reply.content, 2**30)[0])
        return reply

    grid.faults.append(look)
    FedLeaseStrategy(settings, out, hand_over=True).start(grid)
    assert len(answers) == 4 and all(isinstance(answer, Finished) for answer in answers)
    return answers


class TestTheEnd:
    def test_a_server_that_asks_gets_neither_rows_nor_private_tensors(self, tmp_path: Path) -> None:
        settings = small_settings(**GENERATION)
        for answer in asked(settings, tmp_path / "r", grid_of(settings)):
            assert answer.private is None and answer.scores.samples == ()
        assert json.loads((tmp_path / "r/state/manifest.json").read_text())["round"] > 0

    def test_rows_go_along_where_the_node_says_so(self, tmp_path: Path) -> None:
        settings = small_settings(**GENERATION)
        grid = grid_of(settings)
        grid.contexts[NODE].node_config["send-samples"] = True
        answers = asked(settings, tmp_path / "r", grid)
        assert sorted(len(answer.scores.samples) > 0 for answer in answers) == [False] * 3 + [True]
        assert all(answer.private is None for answer in answers)

    def test_one_machine_hands_over_all(self, tmp_path: Path) -> None:
        settings = small_settings(**GENERATION)
        answers = asked(settings, tmp_path / "r", grid_of(settings, one_machine=True))
        assert all(answer.private is not None and answer.scores.samples for answer in answers)

    @pytest.mark.parametrize("value", ["yes", 1, ""])
    def test_a_consent_that_is_none_is_refused(self, value: Any, tmp_path: Path) -> None:
        settings = small_settings()
        with pytest.raises(ConfigError, match=rf"send-samples: must be true or false, received {value!r}"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings, **{"send-samples": value}))


class TestFaultsOfRows:
    SECRET = "the patient is called"

    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "ward-7"
        folder.mkdir()
        row = json.dumps({"text": self.SECRET, "label": [self.SECRET]})
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text(f"{row}\n{row}\n")
        return folder

    def test_their_text_stays_in_the_log_of_the_node(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        settings = small_settings()
        grid = grid_of(settings)
        grid.contexts[NODE].node_config = {"data-dir": str(self.folder(tmp_path))}
        with pytest.raises(ConfigError) as caught:
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)
        (fault,) = caught.value.faults
        assert fault == "client 'ward-7': its rows cannot be used; 2 faults, in the log of its node"
        logged = [record.getMessage() for record in caplog.records if "ward-7" in record.getMessage()]
        assert any(self.SECRET in line for line in logged) and self.SECRET not in fault
        assert not (tmp_path / "r" / "config.yaml").exists()

    def test_on_one_machine_the_server_sees_them(self, tmp_path: Path) -> None:
        settings = small_settings()
        grid = grid_of(settings, one_machine=True)
        grid.contexts[NODE].node_config = {"data-dir": str(self.folder(tmp_path))}
        with pytest.raises(ConfigError, match=r"train.jsonl, line 1, column 'label': .*\['the patient"):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)

    def test_one_fault(self) -> None:
        assert refusal_of(DataError("row 3: 'secret'"), "node 3").reason.count("secret") == 0
        assert "1 fault," in refusal_of(DataError("row 3: 'secret'"), "node 3").reason
        assert refusal_of(ConfigError("data-dir: gone"), "node 3").reason == "data-dir: gone"


def test_what_breaks_in_a_node_is_named_by_its_type_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlease.client.worker import ClientWorker

    def fail(*_: Any) -> None:
        raise KeyError(TestFaultsOfRows.SECRET)

    settings = small_settings(**FEW)
    grid = grid_of(settings)

    def break_one(event: Any) -> None:
        if type(event).__name__ == "StepFinished" and event.record["round"] == 1:
            monkeypatch.setattr(ClientWorker, "handle", fail)

    with pytest.raises(RunFailedError, match="usable updates") as caught:
        FedLeaseStrategy(settings, tmp_path / "r", [break_one]).start(grid)
    assert "its app failed with KeyError; the log of its node says why" in str(caught.value)
    log = (tmp_path / "r/rounds.jsonl").read_text()
    assert TestFaultsOfRows.SECRET not in log + str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("threads", "many"), ("threads", 0), ("device", "toaster")])
def test_a_wrong_override_of_a_node_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    settings = small_settings()
    grid = grid_of(settings)
    grid.contexts[NODE].node_config[name] = value
    with pytest.raises(ConfigError, match=name) as caught:
        FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    assert len(caught.value.faults) == 1


class TestTheSameFolder:
    def test_other_settings_are_refused_with_both_values(self, tmp_path: Path) -> None:
        settings = small_settings(**FEW)
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))
        config = (tmp_path / "r/config.yaml").read_text()
        other = small_settings(**{**FEW, "rounds": 9}, seed=4)
        with pytest.raises(RunFolderError) as caught:
            FedLeaseStrategy(other, tmp_path / "r").start(grid_of(other))
        (fault,) = caught.value.faults
        assert f"rounds is {settings.rounds} there, 9 here" in fault
        assert f"seed is {settings.seed} there, 4 here" in fault and "choose another folder" in fault
        assert (tmp_path / "r/config.yaml").read_text() == config

    def test_what_is_about_the_call_may_differ(self, tmp_path: Path) -> None:
        settings = small_settings(**FEW)
        FedLeaseStrategy(settings, tmp_path / "r").start(grid_of(settings))
        other = small_settings(**FEW, **{"flower.deadline": 7, "threads": 1})
        strategy = FedLeaseStrategy(other, tmp_path / "r")
        strategy.start(grid_of(other))
        assert len(rounds_of(tmp_path / "r")) == settings.rounds + 1
        assert strategy.summaries["fedlease"]["num_clients"] == 4
