"""Faults of settings: all at once, in exact sentences, with the nearest valid name."""

import pytest

from fedlease.config.faults import nearest, setting_names
from fedlease.config.settings import Settings, resolve
from fedlease.errors import ConfigError


def faults_of(*words: str, preset: str = "smoke") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        resolve(preset=preset, overrides=words)
    return caught.value.faults


def test_all_faults_come_at_once_and_the_message_has_one_line_each() -> None:
    words = ["method=fedlese", "lora.rank=3", "max_experts=1", "lora.r=x", "train.lr=2", "noequals"]
    with pytest.raises(ConfigError) as caught:
        resolve(preset="smoke", overrides=words)
    assert sorted(caught.value.faults) == [
        "--set: must be key=value, received 'noequals'",
        "lora.r: must be a whole number, received 'x'",
        "lora.rank: no such setting; did you mean 'lora.r'?",
        "max_experts: must be at least 2, received 1",
        "method: unknown method 'fedlese'; did you mean 'fedlease'?",
        "train.lr: must be below 1, received 2",
    ]
    assert str(caught.value).splitlines() == list(caught.value.faults)


def test_an_unknown_preset_does_not_hide_the_faults_of_single_values() -> None:
    first, second = faults_of("lora.r=0", preset="smke")
    assert first.startswith("preset: unknown preset 'smke'; did you mean 'smoke'?")
    assert second == "lora.r: must be at least 1, received 0"


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("lora.r=0", "lora.r: must be at least 1, received 0"),
        ("lora.r=2.5", "lora.r: must be a whole number, received 2.5"),
        ("lora.r=null", "lora.r: must be a whole number, received None"),
        ("lora.alpha=0", "lora.alpha: must be above 0, received 0"),
        ("lora.alpha=.inf", "lora.alpha: must be finite, received inf"),
        ("train.lr=.nan", "train.lr: must be finite, received nan"),
        ("lora.dropout=1", "lora.dropout: must be below 1, received 1"),
        ("lora=5", "lora: must be a group of settings, received 5"),
        ("data=null", "data: must be a group of settings, received None"),
        ("lora.r.x=0", "lora.r.x: must be at least 1, received 0"),
        ("lora.r={x: 2.5}", "lora.r.x: must be a whole number, received 2.5"),
        ("lora.r={x: true}", "lora.r.x: must not be true or false, received True"),
        ("lora.r={}", "lora.r: must name at least 1, received {}"),
        ("min_silhouette=2", "min_silhouette: must be at most 1, received 2"),
        ("train.base_dropout=maybe", "train.base_dropout: must be true or false, received 'maybe'"),
        ("baselines=fedit", "baselines: must be a list, received 'fedit'; write [fedit]"),
        ("baselines=[local, local]", "baselines: 'local' is named twice"),
        ("baselines=[fedlease]", "baselines: 'fedlease' is the method itself"),
        ("head=share", "head: must be one of local, shared, frozen, received 'share'; did you mean 'shared'?"),
        (
            "data.tasks=[sst3]",
            "data.tasks: must be one of sst2, qnli, mrpc, qqp, cola, rte, mnli, wnli, received 'sst3'; "
            "did you mean 'sst2'?",
        ),
        (
            "data.source=folder",
            "data.path: is required when data.source is 'folder': the folder or file that holds your rows",
        ),
        ("fedlease.reallocate=0", "fedlease.reallocate: must be at least 1, received 0"),
        (
            "metric=macro-f1",
            "metric: must be one of accuracy, macro_f1, mcc when task is 'classification', received 'macro-f1'; "
            "did you mean 'macro_f1'?",
        ),
        (
            "train.class_weights=balance",
            "train.class_weights: must be one of none, balanced, received 'balance'; did you mean 'balanced'?",
        ),
        ("learning_rate=1", "learning_rate: no such setting"),
        ("lr=1", "lr: no such setting; did you mean 'train.lr'?"),
        ("lora.target_module=[q]", "lora.target_module: no such setting; did you mean 'lora.target_modules'?"),
        ("7=3", "7: no such setting"),
    ],
)
def test_a_fault_names_the_key_the_rule_and_the_value_received(word: str, fault: str) -> None:
    assert faults_of(word) == (fault,)


@pytest.mark.parametrize("word", ["method=[a]", "baselines=[[a]]", "baselines={a: 1}", "data.tasks=3", "seed=true"])
def test_values_of_another_kind_are_faults_of_their_key_and_never_crash(word: str) -> None:
    faults = faults_of(word)
    assert {fault.split(":")[0] for fault in faults} == {word.split("=")[0]}


def test_a_task_reads_its_own_metrics_and_weighs_labels_only_where_there_are_some() -> None:
    assert faults_of("task=generation", "metric=mcc", "train.class_weights=balanced") == (
        "metric: must be one of rouge1, rougeL, exact_match when task is 'generation', received 'mcc'",
        "train.class_weights: must be none when task is 'generation', whose rows have no labels, it is 'balanced'",
    )


def test_fewer_clients_than_needed_cannot_be_sampled() -> None:
    assert faults_of("clients_per_round=2", "min_clients=3") == (
        "min_clients: must be at most clients_per_round = 2, received 3",
    )
    assert resolve(preset="smoke", overrides=["clients_per_round=3", "min_clients=3"]).min_clients == 3


@pytest.mark.parametrize("grouping", ["clients", "given"])
def test_a_number_of_experts_is_refused_where_the_grouping_decides(grouping: str) -> None:
    faults = faults_of("fedlease.num_experts=2", f"fedlease.grouping={grouping}", "fedlease.assignment={a: 0}")
    assert f"fedlease.num_experts: is not read when fedlease.grouping is {grouping!r}; leave it out" in faults


def test_only_clusters_can_be_formed_again() -> None:
    assert faults_of("fedlease.reallocate=2", "fedlease.grouping=clients") == (
        "fedlease.reallocate: needs fedlease.grouping = 'clusters' or 'similarity', it is 'clients'",
    )
    assert faults_of("fedlease.reallocate=2", "fedlease.halves=true") == (
        "fedlease.halves: must be false when clusters are formed again (fedlease.reallocate)",
    )
    assert resolve(preset="smoke", overrides=["fedlease.reallocate=2"]).fedlease.reallocate == 2
    assert resolve(preset="smoke", overrides=["fedlease_plus.reallocate=2"]).fedlease_plus.reallocate == 2


def test_unsure_clients_compare_single_experts_by_corrected_similarity() -> None:
    assert faults_of("fedlease.unsure=loss") == (
        "fedlease.unsure: needs fedlease.grouping = 'similarity', it is 'clusters'",
        "fedlease.unsure: needs fedlease.routing = 'own', it is 'top-m'",
    )
    own = ["fedlease.unsure=loss", "fedlease.routing=own", "fedlease.grouping=similarity", "fedlease.halves=true"]
    assert resolve(preset="smoke", overrides=own).fedlease.unsure == "loss"
    # The default of FedLEASE+, for where it is of use, is no contradiction, whether it is written out or not.
    for more in ([], ["fedlease_plus.unsure=loss"]):
        settings = resolve(preset="smoke", overrides=["fedlease_plus.routing=top-m", *more])
        assert settings.fedlease_plus.unsure == "loss"


def test_halves_share_their_a_which_then_tells_nothing_of_them() -> None:
    assert faults_of("fedlease.halves=true", "fedlease.grouping=similarity", "fedlease.signal=A") == (
        "fedlease.signal: must be 'B' or 'BA' for fedlease.grouping = 'similarity', received 'A'",
    )
    assert resolve(preset="smoke", overrides=["fedlease_plus.signal=B"]).fedlease_plus.signal == "B"


def test_the_nearest_name_is_given_and_all_where_they_are_few() -> None:
    assert nearest("fedlese", ["local", "fedlease"]) == "; did you mean 'fedlease'? valid: fedlease, local"
    assert nearest("zzz", ["local", "fedlease"]) == "; valid: fedlease, local"
    many = [f"name-{number}" for number in range(13)]
    assert nearest("zzz", many) == ""
    assert nearest("name-77", many) == "; did you mean 'name-7'?"


def test_setting_names_are_dotted_and_cover_every_section() -> None:
    names = list(setting_names(Settings))
    assert {"seed", "lora.r", "train.lr", "warmup.epochs", "data.path", "data.columns.text_pair"} <= set(names)
    assert "lora" not in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["fedlease.average=median"], "fedlease.average: must be factors, since any other mean {}, received 'median'"),
        (["fedlease.reallocate=1"], "fedlease.reallocate: {}; must be null, received 1"),
        (["fedlease.grouping=clients"], "fedlease.grouping: {}, received 'clients'"),
        (
            ["fedlease.grouping=given", "fedlease.assignment={a: 0, b: 0, c: 0, d: 1}"],
            "fedlease.assignment: groups need three clients or more with privacy.secure_sums, received fewer in 1",
        ),
        (
            ["method=fedlease-plus"],
            "fedlease_plus.average: must be factors, since any other mean {}, received 'product'",
        ),
        (["filters=[bfloat16, int4]"], "filters: int4 builds on each client's last update and {}; received 'int4'"),
        (
            ["schedule.until=first"],
            "schedule.until: must be all or deadline with privacy.secure_sums, whose sums come last, received 'first'",
        ),
        (
            ["clients_per_round=4", "method=fedlease"],
            "clients_per_round: must be null with privacy.secure_sums and fedlease, since too few of a cluster may be "
            "drawn, received 4",
        ),
        (["bounds.against=refuse"], "bounds.against: {}, received 'refuse'"),
        (["bounds.step=4"], "bounds.step: {}; left at 8.0 it covers warm-ups alone, received 4"),
        (
            ["method=centralised"],
            "method: centralised pools the rows of all clients, of which privacy.secure_sums shows no update",
        ),
    ],
)
def test_what_needs_single_updates_and_secure_sums_exclude_each_other(words: list[str], fault: str) -> None:
    single = "needs single updates, which privacy.secure_sums hides"
    assert faults_of("privacy.secure_sums=true", *words) == (fault.format(single),)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["method=fed-sb"], "method: fed-sb {}"),
        (["head=shared"], "head: must be local or frozen, since a shared head {}, received 'shared'"),
        (["fedlease.expert_start=client"], "fedlease.expert_start: {}; must be cluster, received 'client'"),
        (
            ["privacy.secure_sums=false"],
            "privacy.sketch: needs privacy.secure_sums = true, by which the warm-ups are then summed, received 500",
        ),
    ],
)
def test_what_needs_single_warm_ups_and_sketches_exclude_each_other(words: list[str], fault: str) -> None:
    single = "needs single warm-ups, which privacy.sketch hides"
    assert faults_of("privacy.secure_sums=true", "privacy.sketch=500", *words) == (fault.format(single),)


@pytest.mark.parametrize("name", ["ifca", "scaffold", "flora"])
def test_a_method_that_needs_single_updates_is_refused_by_its_row(name: str) -> None:
    (fault,) = faults_of("privacy.secure_sums=true", f"method={name}")
    assert fault.startswith(f"method: {name} needs single updates, which privacy.secure_sums hides; must be one of ")
    assert "fedlease" in fault and name not in fault.partition("must be")[2]


def test_resolved_settings_with_secure_sums_are_settings() -> None:
    settings = resolve(preset="smoke", overrides=["privacy.secure_sums=true"])
    assert settings.bounds.norm is not None and resolve(base=settings) == settings
