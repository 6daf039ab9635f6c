"""The catalogue of experiments: their questions, variants and scenarios, and published figures.

A value in ``changes`` may be a function of the common settings, so that "four times the rank" follows ``--set lora.r``.
Settings whose values are not functions are varied by the experiment, so the caller cannot set them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fedlease.config.faults import nearest
from fedlease.config.settings import Settings
from fedlease.core.wording import counted
from fedlease.errors import ConfigError
from fedlease.experiments.experiment import GENERATION, PAPER, SMALL, Experiment, Scenario, Variant
from fedlease.experiments.paper_numbers import (
    EXPERTS,
    LABEL_SKEW,
    NLG_MAIN,
    NLG_WORDS,
    NLU_MAIN,
    OVERHEAD_WORDS,
)

__all__ = ["EXPERIMENTS", "find", "preset_of"]

SKEWED = ("mnli", "qnli", "sst2", "qqp")
"""Tasks of FedTreeLoRA's table."""


def _four_times_the_rank(settings: Settings) -> int:
    return 4 * settings.lora.largest


def _all_clients(settings: Settings, shared_by: int = 1) -> int:
    """Clients per task when the settings' clients are spread over ``shared_by`` tasks, at least 1."""
    return max(1, settings.data.clients_per_task * len(settings.data.tasks) // shared_by)


def _rounds_after(epochs: int) -> Callable[[Settings], int]:
    """A function for the number of rounds R that keeps the budget T = E + R x local epochs if E is ``epochs``."""

    def rounds(settings: Settings) -> int:
        local = settings.train.local_epochs
        passes = settings.warmup.epochs + settings.rounds * local
        left = passes - epochs
        if left < 0 or left % local:
            raise ConfigError(
                f"rounds: a warm-up of {counted(epochs, 'epoch')} and rounds of {local} cannot spend the budget "
                f"T = {passes}; change rounds or train.local_epochs, or leave the variant out with --only"
            )
        return left // local

    return rounds


def _warmup(epochs: int, scales: tuple[str, ...]) -> Variant:
    changes = {"warmup.epochs": epochs, "rounds": _rounds_after(epochs)}
    return Variant(f"warmup-{epochs}", changes=changes, scales=scales)


def _tasks(name: str, *tasks: str) -> Scenario:
    return Scenario(name, {"data.tasks": list(tasks), "data.clients_per_task": lambda s: _all_clients(s, len(tasks))})


def _skewed(task: str, clients: Any, scales: tuple[str, ...]) -> Scenario:
    changes = {"data.tasks": [task], "data.partition": "dirichlet", "data.clients_per_task": clients}
    return Scenario(task, changes, scales)


FULL, PLUS = Variant("fedlease"), Variant("fedlease-plus", "fedlease-plus")
FEDIT, IFCA, LOCAL, TREE = (Variant(name, name) for name in ("fedit", "ifca", "local", "fedtreelora"))
FEDIT_R4X = Variant("fedit-r4x", "fedit", {"lora.r": _four_times_the_rank})
IFCA_CLIENTS = Variant("ifca-clients", "ifca", {"ifca.candidate_start": "clients"})
CENTRALISED = Variant("centralised", "centralised")
OTHERS = tuple(Variant(name, name) for name in ("ffa-lora", "fedsa-lora", "feddpa", "ifca", "fedalt", "fedtreelora"))

EXPERIMENTS: Mapping[str, Experiment] = {
    "nlu-main": Experiment(
        "How does FedLEASE compare with the methods of its tables on four GLUE tasks?",
        "The paper's main table for language understanding. `fedit-r4x` has four times the rank, so that four experts "
        "have no more parameters than it; alpha stays as it is. `ifca-clients` starts from the warm-ups of four "
        "clients, not from means of four random groups. `centralised` pools the rows and is no federated method: a "
        "ceiling for one shared adapter.",
        (FULL, PLUS, FEDIT, FEDIT_R4X, *OTHERS, IFCA_CLIENTS, LOCAL, CENTRALISED),
        paper=NLU_MAIN,
        paper_words="The paper has FFA-LoRA below FedSA-LoRA's 84.60, and the silhouette picks four experts, one per "
        "task.",
    ),
    "nlg-main": Experiment(
        "How does FedLEASE compare with the methods of its tables on text generation?",
        "The paper's other main table: four FLAN categories, two clients each, on LLaMA-2-7B in 8 bits, ROUGE-1. "
        "Small: eight categories, two clients each, on SmolLM2-135M. Variants as in `nlu-main`.",
        (FULL, PLUS, FEDIT, FEDIT_R4X, *OTHERS, LOCAL, CENTRALISED),
        paper=NLG_MAIN,
        paper_words=NLG_WORDS,
        presets=GENERATION,
    ),
    "ablation-experts": Experiment(
        "What do the allocation of experts and their adaptive selection each add?",
        "`own-expert` allocates as the method does and mixes nothing; `single` is one expert for all after the same "
        "warm-up; `single-r4x` has four times the rank; `one-per-client` gives every client an expert of its own, "
        "which all clients may use.",
        (
            FULL,
            Variant("own-expert", changes={"fedlease.routing": "own"}),
            Variant("single-r4x", changes={"fedlease.num_experts": 1, "lora.r": _four_times_the_rank}),
            Variant("single", changes={"fedlease.num_experts": 1}),
            Variant("one-per-client", changes={"fedlease.grouping": "clients"}),
        ),
        paper=EXPERTS,
        paper_words="",
    ),
    "ablation-topk": Experiment(
        "Is the adaptive selection better than a fixed number of router slots?",
        "`top-k` keeps k of the 2M - 1 slots, of which M stand for the own expert; `fedlease` keeps M. Where k "
        "is above 2M - 1, all slots are kept. The one slot of `top-1` weighs 1 whatever its logit is, so nothing "
        "trains its routers; `top-1-weighted` leaves that slot its share of the softmax.",
        (
            FULL,
            *(Variant(f"top-{k}", changes={"fedlease.top_k": k}) for k in (1, 2, 3, 4)),
            Variant("top-1-weighted", changes={"fedlease.top_k": 1, "fedlease.renormalise": False}),
        ),
    ),
    "router-aggregation": Experiment(
        "Should routers be averaged in the cluster, or stay with the client?",
        "`router-client` keeps every router where it is trained; experts are averaged as before.",
        (FULL, Variant("router-client", changes={"fedlease.router": "client"})),
    ),
    "warmup-epochs": Experiment(
        "How long a warm-up does the allocation need, at the same total budget?",
        "E epochs of warm-up, and as many rounds as leave T = E + R x local epochs as it is. At the paper's scale a "
        "round has two epochs, so E is even there, and the paper's own is 10.",
        (
            *(_warmup(epochs, SMALL) for epochs in (2, 1, 4)),
            *(_warmup(epochs, PAPER) for epochs in (10, 2, 4, 20)),
        ),
    ),
    "rank": Experiment(
        "How does the score depend on the rank?",
        "Alpha stays as it is. The paper's rank is 4.",
        tuple(Variant(f"rank-{r}", changes={"lora.r": r}) for r in (4, 2, 8, 16)),
    ),
    "clients": Experiment(
        "Does it hold with fewer and with more clients?",
        "Two, four and eight clients per task, with as many rows each: more clients, more rows in all. Where rows do "
        "not suffice, take fewer per client (`--set data.train_rows=N`) or let clients share them "
        "(`--set data.share_rows=true`).",
        (FULL, FEDIT, IFCA, LOCAL),
        tuple(Scenario(f"clients-per-task-{n}", {"data.clients_per_task": n}) for n in (2, 4, 8)),
    ),
    "heterogeneity": Experiment(
        "How much of the gain is due to tasks that differ?",
        "The same number of clients on one task (QQP), on two (SST-2, QQP) and on four.",
        (FULL, FEDIT, LOCAL),
        (
            _tasks("one-task", "qqp"),
            _tasks("two-tasks", "sst2", "qqp"),
            _tasks("four-tasks", "sst2", "qnli", "mrpc", "qqp"),
        ),
    ),
    "max-experts": Experiment(
        "Does the largest number of experts allowed matter?",
        "M_max bounds the numbers of clusters that are scored, which are below the number of clients anyway: with the "
        "eight clients of the small scale 8 is no bound.",
        (
            *(Variant(f"max-{m}", changes={"max_experts": m}) for m in (8, 2, 4)),
            Variant("max-16", "fedlease", {"max_experts": 16}, PAPER),
        ),
    ),
    "clustering": Experiment(
        "Does it matter how clients are clustered by their distances?",
        "`spectral` clusters on the affinity of the same distances; the silhouette picks M for both.",
        (FULL, Variant("spectral", changes={"fedlease.clustering": "spectral"})),
    ),
    "task-and-label-skew": Experiment(
        "Does it hold when labels are skewed within every task?",
        "Clients of a task hold its labels in shares drawn from Dirichlet(0.5) (`data.alpha`), and row counts vary.",
        (FULL, FEDIT, TREE, LOCAL),
        (Scenario(changes={"data.partition": "task-and-label"}),),
    ),
    "label-skew": Experiment(
        "What is left to gain when clients differ in their labels only?",
        "One task at a time, all clients on it, labels in shares drawn from Dirichlet(0.5) (`data.alpha`). At the "
        "paper's scale twenty clients on each of FedTreeLoRA's four tasks, whose published means stand beside; that "
        "its twenty clients share one task at a time is our reading. At the small scale MNLI is left out. "
        "`fedtreelora-grouping` mixes nothing in from outside a client's group.",
        (FULL, TREE, Variant("fedtreelora-grouping", "fedtreelora", {"fedtreelora.outside": False}), FEDIT, LOCAL),
        (*(_skewed(t, _all_clients, SMALL) for t in SKEWED[1:]), *(_skewed(t, 20, PAPER) for t in SKEWED)),
        paper=LABEL_SKEW,
        paper_words="Figures of FedTreeLoRA's paper, means over its four tasks. FedLEASE's own for label skew are not "
        "known.",
        over_scenarios=True,
    ),
    "signal": Experiment(
        "Which of the warm-up's matrices tells tasks apart: B, A, or their product?",
        "Clients are clustered by the same distance of other matrices; everything after that is the same.",
        (FULL, *(Variant(f"signal-{s}", changes={"fedlease.signal": s}) for s in ("A", "BA"))),
    ),
    "promising": Experiment(
        "Which changes to the method look promising?",
        "One change at a time, of our own but for `own-start`, which is what the authors' published code does: the "
        "first round goes on from the client's own warm-up. `router-own`: routers begin with nearly all weight on the "
        "own expert; `product-mean`: means of B A instead of A and of B; `reallocate`: clients are grouped again after "
        "every second round; `together`: `router-own` and `product-mean`, with clients grouped by B A.",
        (
            FULL,
            Variant("own-start", changes={"fedlease.expert_start": "client"}),
            Variant("router-own", changes={"fedlease.router_start": "own"}),
            Variant("product-mean", changes={"fedlease.average": "product"}),
            Variant("reallocate", changes={"fedlease.reallocate": 2}),
            Variant(
                "together",
                changes={"fedlease.average": "product", "fedlease.router_start": "own", "fedlease.signal": "BA"},
            ),
            TREE,
        ),
    ),
    "expert-usage": Experiment(
        "How many experts does a token use, per layer and per task?",
        "Experts with a weight above zero per token of the test rows, mean over a task's clients and a layer's "
        "modules.",
        (FULL,),
        paper_words="The paper says that deeper layers and harder tasks use more experts.",
        adds="usage",
    ),
    "overhead": Experiment(
        "What does FedLEASE cost beyond one shared adapter?",
        "Seconds of the allocation and of a client's pass over its rows, bytes, trained parameters. Times are those of "
        "the machine; run nothing else beside.",
        (FULL, FEDIT, LOCAL),
        paper_words=OVERHEAD_WORDS,
        adds="overhead",
    ),
}
"""Name -> experiment."""


def find(name: str) -> Experiment:
    """Finds an experiment by name.

    Raises:
        ConfigError: there is no such experiment; the message suggests the nearest name.
    """
    if name not in EXPERIMENTS:
        hint = nearest(name, EXPERIMENTS) or ";"
        raise ConfigError(f"experiment: unknown experiment {name!r}{hint} `fedlease reproduce` lists all")
    return EXPERIMENTS[name]


def preset_of(experiment: Experiment, scale: str) -> str:
    """The preset of an experiment at a scale.

    Raises:
        ConfigError: there is no such scale; the message suggests the nearest name.
    """
    if scale not in experiment.presets:
        raise ConfigError(f"scale: unknown scale {scale!r}{nearest(scale, experiment.presets)}")
    return experiment.presets[scale]
