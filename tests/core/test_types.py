"""Names of tensors, fingerprints, what a task makes private, budgets."""

import dataclasses

import pytest
import torch

from fedlease.core.tensor_names import REMEMBERED
from fedlease.core.types import AdapterSpec, Allocation, Budget, ClientModel, ClientTask, Stage, TensorName, head_names


class TestTensorName:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("encoder.layer.0.q/A/0", TensorName("encoder.layer.0.q", "A", 0)),
            ("encoder.layer.10.q/B/12", TensorName("encoder.layer.10.q", "B", 12)),
            ("q/G", TensorName("q", "G")),
            ("head/classifier.weight", TensorName("head", "classifier.weight")),
        ],
    )
    def test_reads_and_writes(self, text: str, name: TensorName) -> None:
        assert TensorName.parse(text) == name
        assert str(name) == text

    @pytest.mark.parametrize("text", ["", "q", "q/A", "q/C/0", "q/A/x", "q/A/-1", "q/A/0/1", "q/G/0", "a/b/c"])
    def test_refuses_other_forms(self, text: str) -> None:
        with pytest.raises(ValueError, match="is none of <module>/A/<e>"):
            TensorName.parse(text)

    def test_a_name_is_read_once_but_a_long_one_is_not_remembered(self) -> None:
        """Whoever sends names could fill the memory with them."""
        assert TensorName.parse("encoder.q/A/3") is TensorName.parse("encoder.q/A/3")
        long = "q" * REMEMBERED + "/A/3"
        assert TensorName.parse(long) == TensorName("q" * REMEMBERED, "A", 3)
        assert TensorName.parse(long) is not TensorName.parse(long)

    def test_head_names(self) -> None:
        assert head_names({"head/w": 1, "q/A/0": 2, "header/A/0": 3}) == {"head/w"}
        assert head_names(frozenset({"q/G"})) == frozenset()


class TestAdapterSpec:
    spec = AdapterSpec(r=4, alpha=16, dropout=0.0, target_modules=("q", "v"))

    def test_fingerprint_changes_with_every_field(self) -> None:
        changes = {
            "r": 8,
            "alpha": 8,
            "dropout": 0.1,
            "target_modules": ("q",),
            "num_experts": 2,
            "own": 1,
            "mixer": "top_m",
            "top_k": 2,
            "renormalise": False,
            "blend": 0.1,
            "anchors": 3,
            "density": 0.5,
            "places": 1,
        }
        assert set(changes) == {field.name for field in dataclasses.fields(AdapterSpec)}
        prints = {dataclasses.replace(self.spec, **{name: value}).fingerprint() for name, value in changes.items()}
        assert len(prints | {self.spec.fingerprint()}) == len(changes) + 1

    def test_fingerprint_is_16_digits_and_a_function_of_the_values(self) -> None:
        again = AdapterSpec(r=4, alpha=16, dropout=0.0, target_modules=("q", "v"))
        assert again.fingerprint() == self.spec.fingerprint()
        assert len(again.fingerprint()) == 16
        int(again.fingerprint(), 16)


class TestClientTask:
    def test_private_is_trained_and_not_uploaded(self) -> None:
        model = ClientModel(AdapterSpec(r=1, alpha=1, dropout=0, target_modules=("q",)), {})
        stages = (Stage(frozenset({"q/A/0", "q/B/0"}), 1), Stage(frozenset({"head/w"}), 1))
        task = ClientTask("x", 1, model, stages, upload=frozenset({"q/B/0", "q/G"}))
        assert task.trainable == {"q/A/0", "q/B/0", "head/w"}
        assert task.private == {"q/A/0", "head/w"}

    def test_nothing_to_train(self) -> None:
        model = ClientModel(AdapterSpec(r=1, alpha=1, dropout=0, target_modules=("q",)), {})
        assert ClientTask("x", 1, model, (), upload=frozenset()).private == frozenset()


def test_members_are_sorted_by_client() -> None:
    allocation = Allocation(2, {"b": 0, "a": 0, "c": 1}, {}, torch.zeros(3, 3), ["a", "b", "c"])
    assert allocation.members(0) == ["a", "b"]
    assert allocation.members(1) == ["c"]
    assert allocation.members(2) == []


@pytest.mark.parametrize(("budget", "passes"), [(Budget(2, 4), 6), (Budget(5, 20, 2), 45), (Budget(1, 0, 3), 1)])
def test_budget_is_warmup_plus_rounds_times_local_epochs(budget: Budget, passes: int) -> None:
    assert budget.passes == passes


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        (Budget(2, 3), [1, 1, 1, 1, 1]),
        (Budget(1, 4, 2), [1, 2, 2, 2, 2]),  # one opening round with what E has
        (Budget(5, 2, 2), [2, 2, 1, 2, 2]),
        (Budget(4, 1, 2), [2, 2, 2]),
        (Budget(1, 0, 3), [1]),
    ],
)
def test_without_a_warm_up_its_epochs_are_spent_in_opening_rounds(budget: Budget, epochs: list[int]) -> None:
    rounds = range(1, budget.opening_rounds + budget.rounds + 1)
    assert [budget.epochs(number) for number in rounds] == epochs
    assert [budget.passes_before(number) for number in [*rounds, len(rounds) + 1]] == [
        sum(epochs[:number]) for number in range(len(epochs) + 1)
    ]
    assert sum(epochs[: budget.opening_rounds]) == budget.warmup_epochs
