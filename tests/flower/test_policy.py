"""What a node lets its server ask for: the node's own rules, each named with the value that breaks it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import own_rows, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.hostile import asked_of, recorded
from flower.nodes import grid_of
from pydantic import ValidationError

from fedlease import __version__
from fedlease.client.messages import Refused, Trained
from fedlease.config.settings import Settings, preset_names, resolve
from fedlease.core.codec import loads
from fedlease.core.types import LocalTerm, head_names
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RulesError
from fedlease.flower.clientapp import client_app
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.messages import Envelope, Introduction
from fedlease.flower.policy import NodePolicy
from fedlease.flower.rules_file import policy_of
from fedlease.flower.strategy import FedLeaseStrategy

RUN = "0123456789abcdef" * 2
CLIENT = "planted-0-0"


def hello(settings: Settings, run: str = RUN) -> Envelope:
    return Envelope(run, __version__, settings.model_dump_json(), "x")


def broken(settings: Settings, policy: NodePolicy | None = None, run: str = RUN) -> dict[str, str]:
    """The rules that settings break -> a sentence for the node's log."""
    try:
        (policy or NodePolicy()).check(hello(settings, run), settings, own_model=False, own_rows=True)
    except RulesError as error:
        return dict(zip(error.rules, error.faults, strict=True))
    return {}


def refused_by(*rules: str, client: str = CLIENT) -> Refused:
    """All that the server is told."""
    many = "rule" if len(rules) == 1 else "rules"
    return Refused(f"client {client!r}: refused by its node's {many} {', '.join(rules)}; the log of its node says more")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_passes_a_node_without_rules_of_its_own(name: str) -> None:
    settings = resolve(preset=name, overrides={"data.path": "rows"} if name == "smoke" else {})
    assert broken(settings) == {}


BROKEN: dict[str, tuple[Any, str]] = {
    "data.columns.label": ("text", "data.columns.label: this node reads 'label' (columns.label), received 'text'"),
    "data.columns.task": ("text", "data.columns.task: this node reads 'task' (columns.task), received 'text'"),
    "model": ("/home/someone/model", "(models), received '/home/someone/model'"),
    "revision": ("../../x", "revision: must be a commit or a plain name, received '../../x'"),
    "device": ("../x", "device: must be the name of a device, received '../x'"),
    "rounds": (10**6, "rounds: must be at most 1000 (max-rounds), received 1000000"),
    "warmup.epochs": (10**6, "warmup.epochs: must be at most 100 (max-epochs), received 1000000"),
    "train.local_epochs": (101, "train.local_epochs: must be at most 100 (max-epochs), received 101"),
    "train.batch_size": (10**9, "train.batch_size: must be at most 1024 (max-batch), received 1000000000"),
    "generation.batch_size": (10**9, "generation.batch_size: must be at most 1024 (max-batch)"),
    "generation.max_new_tokens": (10**9, "generation.max_new_tokens: must be at most 1024 (max-new-tokens)"),
    "generation.samples": (10**9, "generation.samples: must be at most 10 (max-samples)"),
    "data.max_tokens": (32768, "data.max_tokens: must be at most 4096 (max-tokens), received 32768"),
    "lora.r": (129, "lora.r: must be at most 128 (max-rank), received 129"),
    "threads": (10**6, "threads: must be at most 256 (max-threads), received 1000000"),
    "feddpa.num_anchors": (10**9, "feddpa.num_anchors: must be at most 1024"),
    "seed": (2**63, "seed: must be below 2 ** 63"),
    "head": ("shared", "head: 'shared' sends heads to the server, A, B, G may leave this node (uploads)"),
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_setting_beyond_a_rule_is_refused_with_rule_and_value(key: str) -> None:
    value, wording = BROKEN[key]
    settings = resolve(preset="smoke", overrides={key: value})
    # A step that is too large in one way is too large altogether.
    ((rule, said),) = [(rule, said) for rule, said in broken(settings).items() if rule != "max-batch-tokens"]
    assert wording in said and (f"({rule})" in said or rule == key)


def test_all_refused_values_are_named_at_once() -> None:
    settings = resolve(preset="smoke", overrides={"rounds": 10**6, "lora.r": 500, "data.columns.text": "label"})
    assert [*broken(settings, run="../x")] == ["columns.text", "max-rounds", "max-rank", "run"]


def test_a_step_is_bounded_by_rows_and_tokens_together() -> None:
    # 1024 rows of 64 tokens are 65,536 tokens, one more row is beyond.
    settings = resolve(preset="smoke", overrides={"train.batch_size": 1024, "data.max_tokens": 64})
    assert broken(settings) == {}
    settings = resolve(preset="smoke", overrides={"train.batch_size": 1024, "data.max_tokens": 65})
    assert broken(settings)["max-batch-tokens"].startswith("train.batch_size x data.max_tokens: must be at most 65536")


class TestPrivacyIsDemanded:
    @pytest.mark.parametrize(
        ("asked", "rules"),
        [
            ({}, ["max-epsilon", "max-delta", "max-total-epsilon"]),
            ({"epsilon": 8.1, "delta": 1e-5}, ["max-epsilon"]),
            ({"epsilon": 9.1, "delta": 1e-5}, ["max-epsilon", "max-total-epsilon"]),
            ({"epsilon": 8.0, "delta": 1e-4}, ["max-delta"]),
            ({"epsilon": 8.0, "delta": 1e-5}, []),
        ],
    )
    def test_and_a_run_beyond_the_budget_refused(self, asked: dict[str, float], rules: list[str]) -> None:
        settings = resolve(preset="smoke", overrides={f"privacy.{name}": value for name, value in asked.items()})
        found = broken(settings, NodePolicy(max_epsilon=8.0, max_delta=1e-5, max_total_epsilon=9.0))
        assert [*found] == rules and all(f"({rule}), received" in found[rule] for rule in rules)

    def test_by_default_it_is_not(self) -> None:
        assert (NodePolicy().max_epsilon, NodePolicy().max_delta) == (None, None)


class TestTheNodesOwnConfiguration:
    def test_rules_are_read_from_it(self) -> None:
        given = {
            "max-rank": 4,
            "models": "minilm, org/name",
            "columns.text": "sentence",
            "uploads": "A,B",
            "device": "cpu",
        }
        policy = policy_of({**given, "data-dir": "x"})
        assert (policy.max_rank, policy.models, policy.uploads) == (4, ("minilm", "org/name"), ("A", "B"))
        assert policy.columns.text == "sentence" and policy.columns.label == "label"

    def test_what_is_wrong_is_named_by_its_key(self) -> None:
        with pytest.raises(ConfigError) as caught:
            policy_of({"max-rank": 0, "max-lables": 3, "uploads": "A,rows", "send-samples": 1, "columns.txt": "x"})
        wording = sorted(caught.value.faults)
        assert wording[0].startswith("node-config: columns.txt: no such rule of a node; did you mean 'columns.text'")
        assert wording[1].startswith("node-config: max-lables: no such rule of a node; did you mean 'max-labels'")
        assert wording[2] == "node-config: max-rank: must be at least 1, received 0"
        assert (
            "send-samples: must be true or false, received 1" in wording[3] and "uploads: must be one of" in wording[4]
        )

    def test_a_file_beside_the_rows_says_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "node.yaml").write_text("max-rank: 4\nmodels: [minilm, org/name]\ncolumns: {text: note}\n")
        policy = policy_of({"data-dir": str(tmp_path), "uploads": "A,B"})
        assert (policy.max_rank, policy.models, policy.columns.text) == (4, ("minilm", "org/name"), "note")
        named = {"rules": str(tmp_path / "node.yaml"), "uploads": "A,B"}
        assert policy.uploads == ("A", "B") and policy == policy_of(named)
        (tmp_path / "node.yaml").write_text("# nothing\n")
        assert policy_of({"data-dir": str(tmp_path)}) == NodePolicy() == policy_of({"data-dir": str(tmp_path / "none")})

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("max-rnk: 4", "node.yaml: max-rnk: no such rule of a node; did you mean 'max-rank'"),
            ("data-dir: /x", "node.yaml: data-dir: no such rule of a node"),
            ("keep-loaded: 9", "node.yaml: keep-loaded: no such rule of a node"),
            ("max-rank: 0", "node.yaml: max-rank: must be at least 1, received 0"),
            ("max-epsilon: 0", "node.yaml: max-epsilon: must be above 0, received 0"),
            ("columns: {text: 3}", "node.yaml: columns.text: "),
            ("columns: 3", "node.yaml: columns: "),
            ("max-epochs: 3", "node.yaml: max-epochs: it is in node-config too; give it once"),
            ("- a", "must have rules, as in max-rank: 16"),
            ("max-rank: [", "cannot be read"),
            ("max-rank: 4\nmax-rank: 8", "cannot be read"),
        ],
    )
    def test_a_fault_of_the_file_is_named(self, text: str, fault: str, tmp_path: Path) -> None:
        (tmp_path / "node.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            policy_of({"data-dir": str(tmp_path), "max-epochs": 3})
        (said,) = caught.value.faults
        assert fault in said

    def test_rows_are_read_as_without_the_file(self, tmp_path: Path) -> None:
        rows = own_rows(tmp_path / "rows")
        settings = resolve(preset="smoke", overrides={"data.path": str(rows)})
        before = list(load_federation(settings.data, settings.seed, settings.task))
        (rows / "one/node.yaml").write_text("max-rank: 4\n")
        assert list(load_federation(settings.data, settings.seed, settings.task)) == before

    def test_it_is_frozen(self) -> None:
        policy = NodePolicy()
        with pytest.raises(ValidationError, match="frozen"):
            policy.max_rank = 3  # type: ignore[misc]


def node_of(folder: Path, **config: Any) -> MemoryGrid:
    return MemoryGrid(client_app(), {1: {"data-dir": str(folder), **config}})


def test_a_node_looks_at_its_own_clients_rank_alone(tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    ranks = {"one": 2, "default": 8}
    settings = resolve(preset="smoke", overrides={"data.path": str(rows), "lora.r": ranks, "method": "local"})
    refused = asked_of(node_of(rows / "two", **{"max-rank": 4}), 1, hello(settings))
    assert refused == refused_by("max-rank", client="two")
    answer = asked_of(node_of(rows / "one", **{"max-rank": 4}), 1, hello(settings))
    assert isinstance(answer, Refused) and "base model" in answer.reason, "its rank is no fault"


class TestRows:
    def test_no_setting_makes_a_node_tell_its_texts(self, tmp_path: Path) -> None:
        rows = own_rows(tmp_path / "rows")
        settings = resolve(preset="smoke", overrides={"data.path": str(rows), "data.columns.label": "text"})
        answer = asked_of(node_of(rows / "one"), 1, hello(settings))
        assert answer == refused_by("columns.label", client="one")

    def test_a_nodes_own_columns_are_read_whatever_the_server_calls_them(self, tmp_path: Path) -> None:
        rows = own_rows(tmp_path / "rows")
        for path in (rows / "one").iterdir():
            path.write_text(path.read_text().replace('"text"', '"note"').replace('"label"', '"kind"'))
        settings = resolve(preset="smoke", overrides={"data.path": str(rows)})
        grid = node_of(rows / "one", **{"columns.text": "note", "columns.label": "kind"})
        answer = asked_of(grid, 1, hello(settings))
        assert isinstance(answer, Refused) and "base model" in answer.reason, "rows are read by then"
        answer = asked_of(grid, 1, hello(resolve(base=settings, overrides={"data.columns.label": "kind"})))
        assert "base model" in answer.reason

    @pytest.mark.parametrize(("rule", "value"), [("max-labels", 1), ("max-label-length", 2)])
    def test_labels_beyond_a_rule_stay(self, rule: str, value: int, tmp_path: Path) -> None:
        rows = own_rows(tmp_path / "rows")
        settings = resolve(preset="smoke", overrides={"data.path": str(rows)})
        answer = asked_of(node_of(rows / "one", **{rule: value}), 1, hello(settings))
        assert answer == refused_by(rule, client="one")

    def test_a_message_names_no_folder(self, tmp_path: Path) -> None:
        rows = own_rows(tmp_path / "rows")
        settings = resolve(preset="smoke", overrides={"data.path": str(rows)})
        config = {"partition-id": 0, "num-partitions": 4}
        answer = asked_of(MemoryGrid(client_app(), {1: config}), 1, hello(settings))
        assert "refused by its node's rule data-folders; " in answer.reason
        allowed = MemoryGrid(client_app(), {1: {**config, "data-folders": str(tmp_path)}})
        assert "base model" in asked_of(allowed, 1, hello(settings)).reason

    def test_a_function_that_gives_rows_sees_no_path_of_the_servers(self, tmp_path: Path) -> None:
        from fedlease.data.sources.folder import load_client
        from fedlease.flower.handler import handle
        from fedlease.flower.wire import pack, unpack

        rows, seen = own_rows(tmp_path / "rows"), []

        def load(context: Any, settings: Settings) -> Any:
            seen.append(settings.data.path)
            return replace(load_client(rows / "one", "one", settings.data, settings.seed), id="../one")

        settings = resolve(preset="smoke", overrides={"data.path": str(rows)})
        grid = node_of(rows / "one")
        reply = unpack(handle(pack(hello(settings)).record, grid.contexts[1], load, None), 2**20)[0]
        assert seen == [None]
        assert reply.reason == "client '../one': must not start with a dot"


Run = tuple[MemoryGrid, dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nodes with a state-dir after a run, and the last message of every kind to one of them."""
    folder = tmp_path_factory.mktemp("finished")
    settings = small_settings(**{"data.clients_per_task": 1, "baselines": [], "rounds": 4, "clients_per_round": 2})
    grid = grid_of(settings, **{"state-dir": str(folder / "state")})
    with pytest.MonkeyPatch.context() as patch:
        found = recorded(patch, CLIENT)
        FedLeaseStrategy(settings, folder / "r").start(grid)
    messages = {type(value.request).__name__: value for _, value in found}
    assert messages.keys() == {"Train", "Score", "Finish"} and messages["Train"].request.accepted is not None
    return grid, messages


@pytest.fixture
def after_run(finished: Run, tmp_path: Path) -> Run:
    """The same with a copy of what the nodes have stored, which a test may change."""
    grid, messages = finished
    state = shutil.copytree(state_of(grid), tmp_path / "state")
    nodes = {node: {**context.node_config, "state-dir": str(state)} for node, context in grid.contexts.items()}
    return MemoryGrid(grid.app, nodes), messages


def state_of(grid: MemoryGrid) -> Path:
    return Path(str(grid.contexts[900].node_config["state-dir"]))


def with_request(message: Envelope, **change: Any) -> Envelope:
    return replace(message, request=replace(message.request, **change))


def with_task(message: Any, **change: Any) -> Envelope:
    return with_request(message, task=replace(message.request.task, **change))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestTasks:
    def test_the_private_head_stays(self, after_run: Run) -> None:
        grid, messages = after_run
        message = messages["Train"]
        task = message.request.task
        heads = head_names(task.model.tensors)
        assert heads and not heads & task.upload
        greedy = with_task(message, upload=task.upload | heads)
        assert "refused by its node's rule uploads; the log" in asked_of(grid, 900, greedy).reason
        # Nor where heads may leave: this run's was kept.
        grid.contexts[900].node_config["uploads"] = "A,B,G,head"
        assert "upload names private tensors of this run" in asked_of(grid, 900, greedy).reason
        stages = tuple(replace(stage, trainable=stage.trainable - heads) for stage in task.stages)
        sly = replace(with_task(greedy, stages=stages), run=RUN)
        assert "upload names tensors that are not trained" in asked_of(grid, 900, sly).reason

    @pytest.mark.parametrize(
        ("change", "wording"),
        [
            ({"round": 10**6}, "refused by its node's rule max-rounds; the log"),
            ({"phase": "../x"}, "phase must be at most 40 letters, digits and dashes, received ../x"),
            ({"upload": frozenset({"x/A/0"})}, "upload names tensors that its model does not have"),
            ({"stages": ()}, "stages must be at least one"),
        ],
    )
    def test_a_task_beyond_a_rule(self, after_run: Run, change: dict[str, Any], wording: str) -> None:
        grid, messages = after_run
        answer = asked_of(grid, 900, with_task(messages["Train"], **change))
        assert isinstance(answer, Refused) and wording in answer.reason

    def test_no_more_leaves_with_a_reply_than_a_rule_says(
        self, after_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedlease.flower import policy

        grid, messages = after_run
        task = messages["Train"].request.task
        leaving = sum(task.model.tensors[name].nbytes for name in task.upload)
        monkeypatch.setattr(policy, "MIB", leaving - 1)
        grid.contexts[900].node_config["max-upload-megabytes"] = 1
        answer = asked_of(grid, 900, messages["Train"])
        assert "refused by its node's rule max-upload-megabytes; the log" in answer.reason
        monkeypatch.setattr(policy, "MIB", leaving)
        assert isinstance(asked_of(grid, 900, messages["Train"]), Trained)

    def test_epochs_and_stages(self, after_run: Run) -> None:
        grid, messages = after_run
        message = messages["Train"]
        (stage,) = message.request.task.stages
        many = with_task(message, stages=(replace(stage, epochs=10**9),))
        assert "refused by its node's rule max-epochs; the log" in asked_of(grid, 900, many).reason
        many = with_task(message, stages=(stage,) * 17)
        assert "refused by its node's rule max-stages; the log" in asked_of(grid, 900, many).reason
        odd = with_task(message, stages=(replace(stage, experts=(7,)),))
        assert "stages name experts of a model that has" in asked_of(grid, 900, odd).reason

    def test_a_term_that_does_not_fit_the_model(self, after_run: Run) -> None:
        grid, messages = after_run
        message = messages["Train"]
        (stage,) = message.request.task.stages
        name = min(stage.trainable)
        right = message.request.task.model.tensors[name]
        for term, wording in (
            (LocalTerm(pull=-1.0), "pull must be a number in 0 .. 1e+06, received -1.0"),
            (LocalTerm(pull=float("nan")), "pull must be a number in 0 .. 1e+06, received nan"),
            (LocalTerm(slope={"x/A/0": right}), "the slope of its term names tensors that are not trained: ['x/A/0']"),
            (LocalTerm(slope={name: right[:1, :1]}), f"the slope of its term: {name} has shape (1, 1), expected"),
            (LocalTerm(slope={name: right * float("inf")}), f"the slope of its term: {name} holds values that are not"),
        ):
            answer = asked_of(grid, 900, with_task(message, term=term))
            assert isinstance(answer, Refused) and wording in answer.reason, term

    def test_a_node_does_not_train_for_one_run_for_ever(self, after_run: Run) -> None:
        grid, messages = after_run
        done = max(loads(path.read_bytes()).tasks for path in state_of(grid).glob("*/planted-0-0/fedlease.safetensors"))
        assert 0 < done < 12
        grid.contexts[900].node_config["max-rounds"] = 4
        work = with_request(messages["Train"], step=1)
        answers = [asked_of(grid, 900, work) for _ in range(12 - done + 1)]
        assert [isinstance(answer, Refused) for answer in answers] == [False] * (12 - done) + [True]
        assert "refused by its node's rule max-rounds; the log" in answers[-1].reason

    @pytest.mark.parametrize("kind", ["Train", "Score", "Finish"])
    def test_a_model_is_looked_at_whole(self, after_run: Run, kind: str) -> None:
        import torch

        grid, messages = after_run
        message = messages[kind]

        def with_model(model: Any) -> Any:
            return with_task(message, model=model) if kind == "Train" else with_request(message, model=model)

        model = message.request.model
        first = min(model.tensors)
        for tensor, wording in (
            (model.tensors[first][:1], "has shape"),
            (model.tensors[first].double(), "has dtype torch.float64"),
            (torch.full_like(model.tensors[first], float("nan")), "not numbers of at most 1e+06"),
            (torch.full_like(model.tensors[first], 1e30), "not numbers of at most 1e+06"),
        ):
            answer = asked_of(grid, 900, with_model(replace(model, tensors={**model.tensors, first: tensor})))
            assert isinstance(answer, Refused) and wording in answer.reason
        lacking = {name: tensor for name, tensor in model.tensors.items() if name != first}
        assert (
            "does not fit the base model: missing"
            in asked_of(grid, 900, with_model(replace(model, tensors=lacking))).reason
        )
        for change, wording in (
            ({"r": 10**9}, "refused by its node's rule max-rank; the log"),
            ({"r": 3}, "its adapter is not of rank 4"),
            ({"num_experts": 10**6, "mixer": "softmax"}, "refused by its node's rule max-experts; the log"),
            ({"num_experts": 10**6, "mixer": "sum"}, "refused by its node's rule max-rank x max-experts; the log"),
            ({"num_experts": 2, "mixer": "core"}, "and 1 for core, received 2"),
            (
                {"alpha": float("nan")},
                "its adapter cannot be: alpha must be a number in 0 .. 1e+06 and more than 0, received nan",
            ),
            ({"target_modules": ("x",)}, "its adapter is not of rank 4 on the 4 modules"),
            ({"own": -1}, "its adapter cannot be: own must be a whole number in 0 .. "),
        ):
            answer = asked_of(grid, 900, with_model(replace(model, spec=replace(model.spec, **change))))
            assert isinstance(answer, Refused) and wording in answer.reason, change

    def test_names_are_never_paths(self, after_run: Run, tmp_path: Path) -> None:
        grid, messages = after_run
        trail = tmp_path / "state" / "audit.jsonl"
        before, told = files(tmp_path), trail.read_text()
        for kind, message in messages.items():
            for change, wording in (
                ({"method": "../../../x"}, "refused by its node's rule method; the log"),
                ({"method": "a\0b"}, "method must be one line of at most 1000 characters"),
                ({"run": "../../x"}, "refused by its node's rule run; the log"),
                ({"run": RUN[:-1]}, "refused by its node's rule run; the log"),
            ):
                changed = with_request(message, **change) if "method" in change else replace(message, **change)
                answer = asked_of(grid, 900, changed)
                assert isinstance(answer, Refused) and wording in answer.reason, (kind, change)
        after = files(tmp_path)
        assert after.pop(trail).decode().startswith(told) and before.pop(trail)
        assert after == before
        assert all(isinstance(m, Envelope) for m in messages.values()) and len(messages) == 3

    def test_a_message_larger_than_the_node_takes(self, after_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from fedlease.flower import handler

        grid, messages = after_run
        monkeypatch.setattr(handler, "MIB", 1)
        grid.contexts[900].state.clear()
        assert "bytes of arrays, at most 1024 are expected" in asked_of(grid, 900, messages["Train"]).reason

    def test_settings_without_end(self, after_run: Run) -> None:
        grid, messages = after_run
        long = replace(messages["Train"], settings=messages["Train"].settings + " " * 300_000)
        assert "characters, at most 262144 are taken" in asked_of(grid, 900, long).reason


def test_an_honest_node_introduces_itself_with_its_own_labels(tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    settings = resolve(preset="smoke", overrides={"data.path": str(rows), "threads": 1, "device": "cpu"})
    grid = node_of(rows / "one")
    refusal = asked_of(grid, 1, hello(settings))
    from fedlease.flower.handler import _node_run
    from fedlease.flower.policy import NodePolicy as Policy

    applied = Policy().applied(settings, with_path=False)
    mine = _node_run(applied.model_dump_json(), ()).fingerprint
    assert isinstance(refusal, Refused)
    answer = asked_of(grid, 1, replace(hello(settings), base=mine))
    assert isinstance(answer, Introduction) and answer.card.labels == ("no", "yes")
    assert json.dumps(answer.card.labels) and answer.card.id == "one"
