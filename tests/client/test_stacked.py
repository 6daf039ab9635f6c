"""Clients that are trained in one step end where each of them ends alone, up to rounding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_checkpoint
from small import rounds_of, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from fedlease.client.ahead import job_of, scoring_of
from fedlease.client.block import Block
from fedlease.client.messages import Train
from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult
from fedlease.client.stacked import Stacker, layout
from fedlease.client.stacked_scoring import Scoring
from fedlease.client.stacked_training import Job, StackedTrainer
from fedlease.client.store import Private
from fedlease.client.training import Optimiser, Trainer
from fedlease.client.worker import Client, ClientWorker
from fedlease.core.adapters import initial_adapter, renumber
from fedlease.core.experts import CORE_SHAPES, ROUTER_ROWS
from fedlease.core.types import ANCHOR, ClientModel, ClientTask, LocalTerm, Stage, Tensors
from fedlease.data.federation import ClientData, Row
from fedlease.errors import ConfigError, UpdateRefusedError
from fedlease.models.base import initial_head, load_base, load_tokenizer
from fedlease.models.sources import locate
from fedlease.models.targets import target_shapes
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.generation import Generation
from fedlease.tasks.multilabel import Multilabel
from fedlease.tasks.regression import Regression

OPTIMISER = Optimiser(lr=2e-4, weight_decay=0.1, batch_size=2, clip_norm=0.5, threads=1, seed=0, lr_schedule="linear")
CLIENTS = {"a": (9, 2), "b": (5, 3), "c": (9, 2), "d": (4, 2)}
"""Rows and labels: five steps a pass, three, five and two; the last batch of most is one row."""

Made = tuple[ResidentModel, Mapping[str, Encoded], ClientModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A resident model, the rows of every client, and an adapter whose B is not zero."""
    return federation(tmp_path_factory.mktemp("made"), "cpu")


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same of a model that writes."""
    return federation(tmp_path_factory.mktemp("writers"), "cpu", Generation(24, max_new_tokens=5))


def federation(folder: Path, device: str, task: Any = None) -> Made:
    task, writes = task or Classification(24), task is not None
    name = "generation" if writes else "classification"
    source = locate("tiny-random", None, folder / "base", 0, name)
    base, tokenizer = load_base(source, dtype="float32", dropout=False, task=name), load_tokenizer(source, name)
    resident = ResidentModel(base, torch.device(device), None, task)
    adapter = initial_adapter(target_shapes(base, None, 2), r=2, alpha=4, dropout=0.0, seed=0)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=draw) for name, tensor in adapter.tensors.items()
    }
    rows = {
        client: task.encode(
            [
                Row(f"{client * (1 + 3 * i % 7)} {i}", None, i % labels, response="zib" * (i % 3) + "b")
                for i in range(count)
            ],
            tokenizer,
        )
        for client, (count, labels) in CLIENTS.items()
    }
    return resident, rows, replace(adapter, tensors=tensors)


def job(made: Made, client: str, mixer: Any = "none", *, own: int = 0, stages: Any = None, **changes: Any) -> Job:
    """What a client trains under a method of that mixer: own adapter, router and head, for two passes."""
    resident, rows, adapter = made
    labels, shift = changes.pop("labels", None) or CLIENTS[client][1], 0.0002 * ord(client)
    spec, tensors = adapter.spec, dict[str, torch.Tensor](adapter.tensors)
    if mixer != "none":
        count = 3 if mixer in ROUTER_ROWS else 1 if mixer in ("core", "diagonal", "sparse") else 2
        spec = replace(spec, num_experts=count, own=own, mixer=mixer, blend=0.3, density=0.1)
        tensors = {k: v * (1 + e) for e in range(count) for k, v in renumber(adapter.tensors, e).items()}
        if mixer not in ("sum", "instance"):
            shape = CORE_SHAPES[mixer](2, count) if mixer in CORE_SHAPES else (102,) if mixer == "sparse" else (1,)
            shape = (ROUTER_ROWS[mixer](count), 32) if mixer in ROUTER_ROWS else shape
            draw = torch.Generator().manual_seed(1)
            tensors |= {f"{module}/G": 0.1 * torch.randn(shape, generator=draw) for module in spec.target_modules}
    spec = replace(spec, dropout=changes.pop("dropout", 0.0), anchors=changes.pop("anchors", 0))
    tensors = {name: tensor + shift for name, tensor in tensors.items()}
    head = initial_head(resident.head_modules(labels), 0)
    model = ClientModel(spec, {**tensors, **head})
    upload = model.names("ABG", own)
    stages = stages or (Stage(upload | head.keys(), 2),)
    task = ClientTask("train", 1, model, stages, upload & frozenset().union(*(s.trainable for s in stages)), **changes)
    return Job(client, task, model.tensors, rows[client], labels)


def alone(made: Made, job: Job, optimiser: Optimiser = OPTIMISER) -> LocalResult:
    made[0].load(job.task.model, job.num_labels, job.tensors)
    return Trainer(made[0], optimiser).train(job.client, job.task, job.rows)


def apart(one: LocalResult, other: LocalResult) -> float:
    """The largest difference between two results: of the loss, or the root mean square within a tensor.

    Not of single numbers: where a gradient is next to nothing, Adam makes a whole step of its rounding.
    """
    assert (one.update.client, one.steps) == (other.update.client, other.steps)
    found = [abs(one.update.metrics["loss"] - other.update.metrics["loss"])]
    for mine, others in ((one.update.tensors, other.update.tensors), (one.private, other.private)):
        assert mine.keys() == others.keys()
        found += [float((tensor - others[name]).square().mean().sqrt()) for name, tensor in mine.items()]
    return max(found)


def stacked(made: Made, jobs: Sequence[Job], optimiser: Optimiser = OPTIMISER) -> dict[str, Any]:
    assert len({layout(job) for job in jobs}) == 1
    return StackedTrainer(made[0], optimiser).train(jobs)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "every client another expert": {"mixer": "top_m"},
    "softmax": {"mixer": "softmax"},
    "sum": {"mixer": "sum"},
    "core": {"mixer": "core"},
    "heads": {"mixer": "heads"},
    "diagonal": {"mixer": "diagonal"},
    "sparse": {"mixer": "sparse"},
    "scalar": {"mixer": "scalar"},
    "instance": {"mixer": "instance"},
    "dropout": {"dropout": 0.3},
    "routed dropout": {"mixer": "top_m", "dropout": 0.3},
    "term": {"term": "pull"},
    "tail": {"term": LocalTerm(tail=0.5, kept=1)},
    "apart": {"mixer": "sum", "term": LocalTerm(apart=0.5), "own": 1},
    "gradients": {"gradients": True},
    "halves": {"halves": True},
    "anchors": {"mixer": "instance", "anchors": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_clients_in_one_step_end_where_each_ends_alone(case: str, made: Made) -> None:
    """Unequal rows, so that they end one after another, and unequal label lists; every client from its own values."""
    wanted = dict(CASES[case])
    if wanted.get("term") == "pull":
        names = made[2].names("B")
        wanted["term"] = LocalTerm(0.5, {name: torch.full_like(made[2].tensors[name], 0.1) for name in names})
    own = [i % 3 if wanted.get("mixer") == "top_m" else wanted.get("own", 0) for i in range(4)]
    wanted.pop("own", None)
    jobs = [job(made, client, own=own[i], **wanted) for i, client in enumerate(CLIENTS)]
    found = stacked(made, jobs)
    assert [found[job.client].steps for job in jobs] == [10, 6, 10, 4]
    assert max(apart(found[job.client], alone(made, job)) for job in jobs) < 1e-5


@pytest.mark.parametrize(
    "task", [Multilabel(24), Multilabel(24, balanced=True), Regression(24)], ids=["sets", "balanced sets", "numbers"]
)
def test_other_heads_in_one_step_end_where_each_ends_alone(task: Any, made: Made, tmp_path: Path) -> None:
    """Clients have other numbers of labels, frequencies of labels, and scales."""
    source = locate("tiny-random", None, tmp_path / "base", 0)
    tokenizer = load_tokenizer(source)
    resident = ResidentModel(load_base(source, dtype="float32", dropout=False), torch.device("cpu"), None, task)
    numbers, rows = isinstance(task, Regression), {}
    for place, (client, (count, labels)) in enumerate(CLIENTS.items()):
        texts = [f"{client * (1 + 3 * i % 7)} {i}" for i in range(count)]
        targets = [
            {"value": i * 10.0**place} if numbers else {"marks": (*range(i % (labels + 1)),)} for i in range(count)
        ]
        own = [Row(text, None, 0, **target) for text, target in zip(texts, targets, strict=True)]
        rows[client] = task.encode(own, tokenizer, (count / 2, 10.0**place))
    mine = resident, rows, made[2]
    jobs = [job(mine, client, labels=1 if numbers else None) for client in CLIENTS]
    found = stacked(mine, jobs)
    assert max(apart(found[job.client], alone(mine, job)) for job in jobs) < 2e-5
    scored = Stacker(StackedTrainer(resident, OPTIMISER), 4).score([scoring(job) for job in jobs])
    for one in jobs:
        resident.load(one.task.model, one.num_labels, one.tensors)
        assert scored[one.client].metrics == pytest.approx(task.measure(resident, one.rows, 1).metrics, abs=1e-5)


def test_stages_that_train_one_expert_after_the_other_end_where_they_end_alone(made: Made) -> None:
    """As under FedDPA: expert 1 beside a frozen expert 0, then expert 0 alone with a fresh optimiser."""
    names = {expert: frozenset(renumber(made[2].tensors, expert)) for expert in (0, 1)}
    stages = (Stage(names[1], 1), Stage(names[0], 2, experts=(0,)))
    jobs = [job(made, client, "instance", own=1, stages=stages) for client in "ab"]
    found = stacked(made, jobs, replace(OPTIMISER, clip_norm=None, lr_schedule="constant"))
    one = [alone(made, job, replace(OPTIMISER, clip_norm=None, lr_schedule="constant")) for job in jobs]
    assert max(apart(found[result.update.client], result) for result in one) < 1e-5
    assert [result.steps for result in one] == [15, 9]


def test_a_client_that_diverges_is_refused_alone(made: Made) -> None:
    """With the sentence that it is refused with alone; the others are as if it had not been there."""
    jobs = {client: job(made, client) for client in CLIENTS}
    name = sorted(jobs["c"].tensors)[0]
    spoilt = {**jobs["c"].tensors, name: torch.full_like(jobs["c"].tensors[name], math.nan)}
    model = replace(jobs["c"].task.model, tensors=spoilt)
    jobs["c"] = replace(jobs["c"], task=replace(jobs["c"].task, model=model), tensors=spoilt)
    found = stacked(made, list(jobs.values()))
    with pytest.raises(UpdateRefusedError) as caught:
        alone(made, jobs["c"])
    assert isinstance(found["c"], UpdateRefusedError)
    assert found["c"].reason == caught.value.reason == "loss is nan in epoch 1, step 1"
    assert max(apart(found[client], alone(made, jobs[client])) for client in "abd") < 1e-5


def test_a_client_whose_rows_teach_nothing_is_refused_alone(made: Made) -> None:
    """One label: the loss is 0 whatever the model says."""
    resident, rows, adapter = made
    jobs = [job(made, "a"), job(made, "d")]
    head = initial_head(resident.head_modules(1), 0)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    one_label = replace(rows["d"], labels=(0,) * len(rows["d"]))
    jobs[1] = replace(
        jobs[1], task=replace(jobs[1].task, model=model), tensors=model.tensors, rows=one_label, num_labels=1
    )
    found = stacked(made, jobs)
    assert isinstance(found["d"], UpdateRefusedError)
    assert found["d"].reason == "no step had a gradient, the loss is 0: its rows teach nothing"
    assert apart(found["a"], alone(made, jobs[0])) < 1e-5


def test_nothing_of_the_clients_stays_in_the_model(made: Made) -> None:
    before = alone(made, job(made, "a"))
    trainer = StackedTrainer(made[0], OPTIMISER)
    trainer.train([job(made, client, "top_m") for client in "ab"])
    assert trainer._model is not None and not any(module.training for module in trainer._model.model.modules())
    assert trainer._model.trained.values.numel() == 0
    assert apart(before, alone(made, job(made, "a"))) == 0.0


def test_losses_are_reported_in_order_and_sum_to_the_mean(made: Made) -> None:
    told: list[tuple[str, int, int, float]] = []
    jobs = [replace(job(made, client), on_batch=lambda *step: told.append(step)) for client in "ab"]
    found = stacked(made, jobs)
    for client, steps in (("a", 10), ("b", 6)):
        mine = [step for step in told if step[0] == client]
        assert [(done, total) for _, done, total, _ in mine] == [(i + 1, steps) for i in range(steps)]
        # The last pass of a is four batches of two rows and one of one, in any order: the mean lies among them.
        last = [loss for *_, loss in mine[steps // 2 :]]
        assert min(last) < found[client].update.metrics["loss"] < max(last)


class Operations(TorchDispatchMode):
    """Counts what a device would be asked for, and how often a number is read back."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mixer", ["none", "top_m"])
def test_a_step_asks_a_device_for_as_much_whoever_many_clients_are_in_it(mixer: str, made: Made) -> None:
    """No loop over clients, and losses are read once per pass: only transformers looks at the mask in every step."""
    trainer, one = StackedTrainer(made[0], OPTIMISER), job(made, "a", mixer)

    def operations(clients: int, passes: int) -> list[str]:
        stages = (replace(one.task.stages[0], epochs=passes),)
        jobs = [replace(one, client=str(i), task=replace(one.task, stages=stages)) for i in range(clients)]
        with Operations() as counted:
            trainer.train(jobs)
        # Rows are dealt on the processor.
        return [name for name in counted.names if "randperm" not in name]

    trainer.train([replace(one, client=client) for client in "bc"])  # makes the model
    three, six = (len(operations(clients, 3)) - len(operations(clients, 1)) for clients in (3, 6))
    assert three == six
    read = [operations(3, passes).count("aten._local_scalar_dense.default") for passes in (1, 3)]
    assert read[1] - read[0] == 10, "two passes of five steps"


def test_only_jobs_of_one_layout_go_together_and_who_is_left_is_left_out(made: Made) -> None:
    jobs = [job(made, "a"), job(made, "b", "top_m"), job(made, "c")]
    jobs.append(job(made, "d", term=LocalTerm(tail=0.5)))
    assert Stacker(StackedTrainer(made[0], OPTIMISER), 4).train(jobs).keys() == {"a", "c"}


def test_where_memory_has_no_room_the_clients_of_a_step_are_halved(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, tried = StackedTrainer.train, list[int]()

    def train(self: StackedTrainer, jobs: Sequence[Job]) -> Any:
        tried.append(len(jobs))
        if len(jobs) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return honest(self, jobs)

    monkeypatch.setattr(StackedTrainer, "train", train)
    stacker = Stacker(StackedTrainer(made[0], OPTIMISER), 4)
    jobs = [job(made, client) for client in CLIENTS]
    assert stacker.train(jobs).keys() == CLIENTS.keys()
    assert tried == [4, 2, 2] and stacker.clients == 2
    stacker.train(jobs)
    assert tried[3:] == [2, 2], "it is remembered"


def test_a_block_gives_back_what_it_was_made_of() -> None:
    def tensors(labels: int) -> Tensors:
        return {"w": torch.randn(labels, 3), "b": torch.randn(labels), "a": torch.randn(2, 5)}

    clients = [tensors(labels) for labels in (2, 4, 3)]
    block = Block(clients, ["w", "b"], torch.device("cpu"))
    assert block.names == ["b", "w"] and block.view("w", 2).shape == (2, 4, 3)
    for own, found in zip(clients, block.read(), strict=True):
        assert {name: tensor.tolist() for name, tensor in found.items()} == {n: own[n].tolist() for n in ("w", "b")}
    assert not block.view("w", 3)[0, 2:].any(), "what a shorter list does not have is 0"
    joined = block.joined({"w": block.view("w", 2), "b": None})
    assert joined[:, 8:20].equal(block.values[:2, 8:20]) and not joined[:, :8].any()


def test_a_run_ends_where_it_ends_one_client_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up, a routed round, and beside it FedALT, IFCA, whose clients compare candidates first, and FedDPA, whose
    inputs are weighed by anchors: the same groups, choices, scores, and losses to 1e-5.
    """
    honest, by_themselves = Trainer.train, list[str]()
    monkeypatch.setattr(
        Trainer, "train", lambda *words, **more: by_themselves.append(words[1]) or honest(*words, **more)
    )
    compared = list[float]()
    loss = ClientWorker._loss
    monkeypatch.setattr(ClientWorker, "_loss", lambda *words: compared.append(loss(*words)) or compared[-1])
    scored = list[int]()
    measure = ClientWorker._measure
    monkeypatch.setattr(ClientWorker, "_measure", lambda self: scored.append(1) or measure(self))
    changes: dict[str, Any] = {"rounds": 1, "baselines": ["fedalt", "ifca", "feddpa"], "ifca.num_candidates": 2}
    changes |= {"data.train_rows": 8, "data.test_rows": 4, "keep_predictions": False, "audit": False}
    one = small_run(tmp_path / "1", clients_per_step="auto", **changes)
    assert by_themselves and compared
    by_themselves.clear()
    compared.clear()
    scored.clear()
    many = small_run(tmp_path / "4", clients_per_step=4, **changes)
    assert not by_themselves and not compared, "all together, in every step of every method"
    assert len(scored) == 3 * 4, "at the end of the three mixtures alone, whose experts are counted: four clients"
    assert "clients_per_step: 4" in (many.out / "config.yaml").read_text()
    assert "clients_per_step: 1" in (one.out / "config.yaml").read_text(), "auto is one for one thread in float32"
    for method, summary in many.summaries.items():
        other = one.summaries[method]
        assert (summary["assignment"], summary["bytes_up"]) == (other["assignment"], other["bytes_up"])
        assert summary.get("own_expert_mean") == other.get("own_expert_mean")
        folder = Path() if method == "fedlease" else Path("baselines") / method
        for mine, others in zip(rounds_of(many.out / folder), rounds_of(one.out / folder), strict=True):
            assert mine["clients"].keys() == others["clients"].keys()
            for client, entry in mine["clients"].items():
                assert entry["steps"] == others["clients"][client]["steps"]
                assert entry["loss"] == pytest.approx(others["clients"][client]["loss"], abs=1e-5)
                assert entry["score"] == others["clients"][client]["score"]
                assert entry.get("choice") == others["clients"][client].get("choice")


def test_parts_of_halves_go_on_from_stage_to_stage(made: Made) -> None:
    names = made[2].names("AB")
    stages = (Stage(names, 1), Stage(names, 2))
    jobs = [job(made, client, stages=stages, halves=True) for client in CLIENTS]
    found = stacked(made, jobs)
    assert max(apart(found[job.client], alone(made, job)) for job in jobs) < 1e-5


def test_halves_of_a_run_are_the_same_together_and_alone(tmp_path: Path) -> None:
    """The warm-up of FedLEASE+, with the frequencies of labels that heads begin with."""
    changes = {"method": "fedlease-plus", "rounds": 0, "baselines": (), "data.train_rows": 20}
    one, many = (small_run(tmp_path / str(n), clients_per_step=n, **changes) for n in (1, 4))
    (mine,), (others,) = (
        [line["clients"] for line in rounds_of(run.out) if line["phase"] == "warmup"] for run in (many, one)
    )
    losses, alone = ({client: entry["loss"] for client, entry in each.items()} for each in (mine, others))
    assert losses == pytest.approx(alone, abs=1e-5)
    assert [entry["score"] for entry in mine.values()] == [entry["score"] for entry in others.values()]
    assert many.summary["assignment"] == one.summary["assignment"]


def test_where_rows_do_not_come_first_several_clients_are_refused(tmp_path: Path) -> None:
    """DeBERTa's adapted modules also read the embeddings of relative positions."""
    model = str(save_checkpoint(tmp_path / "deberta", "deberta", share_att_key=True))
    said = r"clients_per_step: several clients cannot be computed in one step: deberta.*receives .* must be 1 or auto"
    with pytest.raises(ConfigError, match=said):
        small_run(tmp_path / "r", model=model, baselines=(), clients_per_step=2)
    assert not (tmp_path / "r").exists(), "refused before anything is written"


def scoring(job: Job, candidate: int = 0) -> Scoring:
    return Scoring(job.client, job.task.model.spec, job.tensors, job.rows, job.num_labels, candidate)


def anchored(jobs: Sequence[Job]) -> list[Job]:
    """Every client but the first with a direction of its own, to which inputs are compared."""
    draw = torch.Generator().manual_seed(2)
    anchors = [{ANCHOR: torch.nn.functional.normalize(torch.randn(32, generator=draw), dim=0)} for _ in jobs[1:]]
    return [replace(one, tensors={**one.tensors, **anchor}) for one, anchor in zip(jobs, [{}, *anchors], strict=True)]


@pytest.mark.parametrize("mixer", ["none", "top_m", "softmax", "scalar", "sum", "instance"])
def test_clients_that_are_scored_together_have_their_own_scores(mixer: str, made: Made) -> None:
    resident, task = made[0], made[0].task
    jobs = [job(made, client, mixer, own=i % 3 if mixer == "top_m" else 0) for i, client in enumerate(CLIENTS)]
    jobs = anchored(jobs) if mixer == "instance" else jobs
    found = Stacker(StackedTrainer(resident, OPTIMISER), 4).score([scoring(job) for job in jobs])
    assert found.keys() == CLIENTS.keys()
    for one in jobs:
        resident.load(one.task.model, one.num_labels, one.tensors)
        expected, measured = task.measure(resident, one.rows, 1), found[one.client]
        assert measured.metrics == pytest.approx(expected.metrics, abs=1e-6)
        assert (measured.per_row, measured.confusion) == (expected.per_row, expected.confusion)
        assert measured.predictions["prediction"] == expected.predictions["prediction"]
        assert measured.predictions["probability"] == pytest.approx(expected.predictions["probability"], abs=1e-5)
    if mixer not in ("none", "sum"):
        single = Stacker(StackedTrainer(resident, OPTIMISER), 4).score(
            [replace(scoring(job), alone=True) for job in jobs]
        )
        for one in jobs:
            resident.load(one.task.model, one.num_labels, one.tensors)
            resident.restrict((one.task.model.spec.own,))
            assert single[one.client].metrics == pytest.approx(task.measure(resident, one.rows, 1).metrics, abs=1e-6)
        resident.restrict(None)


@pytest.mark.parametrize("mixer", ["none", "top_m", "instance"])
def test_writers_are_trained_and_scored_together_as_alone(mixer: str, writers: Made) -> None:
    """Answers of unequal length to prompts of unequal length: the loss is a mean over a client's own tokens."""
    resident, task = writers[0], writers[0].task
    jobs = [job(writers, client, mixer, own=i % 3 if mixer == "top_m" else 0) for i, client in enumerate(CLIENTS)]
    trained = stacked(writers, jobs)
    assert max(apart(trained[job.client], alone(writers, job)) for job in jobs) < 1e-5
    jobs = anchored(jobs) if mixer == "instance" else jobs
    found = Stacker(StackedTrainer(resident, OPTIMISER), 4).score([scoring(job) for job in jobs])
    texts = set[str]()
    for one in jobs:
        resident.load(one.task.model, one.num_labels, one.tensors)
        expected = task.measure(resident, one.rows, 1)
        assert found[one.client].answers == expected.answers
        assert found[one.client].metrics == pytest.approx(expected.metrics, abs=1e-5)
        texts |= {*expected.answers}
    assert len(texts) > 3, "they write different answers"


@pytest.mark.parametrize("balanced", [False, True])
def test_candidates_that_are_compared_together_have_their_own_losses(
    balanced: bool, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of each client, on its train rows, whose labels may weigh differently."""
    resident, task = made[0], Classification(24, balanced=balanced)
    monkeypatch.setattr(resident, "task", task)
    jobs = [job(made, client) for client in "ab"]
    spoilt = [replace(one, tensors={n: 1.3 * v for n, v in one.tensors.items()}) for one in jobs]
    compared = [(one, number) for number, each in enumerate((jobs, spoilt)) for one in each]
    found = Stacker(StackedTrainer(resident, OPTIMISER), 3).losses([scoring(*each) for each in compared])
    for one, number in compared:
        resident.load(one.task.model, one.num_labels, one.tensors)
        assert found[one.client, number] == pytest.approx(task.mean_loss(resident, one.rows, 1), abs=1e-6)
    assert len({round(loss, 4) for loss in found.values()}) == 4


def test_working_ahead_changes_nothing_of_what_a_client_keeps(made: Made) -> None:
    """Handling the request accepts what is pending, and needs the round that early stopping may come back to."""
    one = job(made, "a")
    client = Client(ClientData("a", "t", ("no", "yes"), (), (), ()), one.rows, one.rows)
    private = Private(at=1).trained(2, one.task.model.spec, {"w": torch.ones(1)})
    worker = ClientWorker(client, Trainer(made[0], OPTIMISER), private=private)
    request = Train("local", 3, one.task, accepted=2, best=1)
    assert job_of(worker, request, None) and scoring_of(worker, request, None)
    assert worker.private is private


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_clients_in_one_step_end_where_each_ends_alone(case: str, tmp_path: Path) -> None:
    """Dropout aside, which one generator draws for all."""
    wanted = {name: value for name, value in CASES[case].items() if name == "mixer"}
    made = federation(tmp_path, "cuda")
    own = [i % 3 if wanted.get("mixer") == "top_m" else wanted.get("own", 0) for i in range(4)]
    wanted.pop("own", None)
    jobs = [job(made, client, own=own[i], **wanted) for i, client in enumerate(CLIENTS)]
    found = stacked(made, jobs)
    assert max(apart(found[job.client], alone(made, job)) for job in jobs) < 1e-4
    scores = Stacker(StackedTrainer(made[0], OPTIMISER), 4).score([scoring(job) for job in jobs])
    for one in jobs:
        made[0].load(one.task.model, one.num_labels, one.tensors)
        measured = made[0].task.measure(made[0], one.rows, 1)
        assert scores[one.client].metrics["loss"] == pytest.approx(measured.metrics["loss"], abs=1e-4)
    again = stacked(made, jobs)
    assert max(apart(found[client], again[client]) for client in CLIENTS) == 0.0, "the same bits every time"
