"""FedProx: FedIT with a pull."""

from contract.planted import CLIENTS, adapter, made
from small import FinishedRuns, tensors_of

from fedlease.core.types import Budget, LocalTerm

BUDGET = Budget(1, 3)


def test_fedprox_asks_for_the_pull_of_its_setting_and_without_one_gives_fedits_task() -> None:
    state = made("fedit", BUDGET).init(adapter(), CLIENTS, 0)
    assert made("fedprox", BUDGET, mu=0.5).task(state, "a0").term == LocalTerm(pull=0.5)
    assert made("fedprox", BUDGET, mu=0.0).task(state, "a0") == made("fedit", BUDGET).task(state, "a0")


def test_a_run_of_fedprox_with_mu_0_is_fedits_to_the_bit_and_with_another_it_is_not(finished: FinishedRuns) -> None:
    # In the first step of a round there is nothing to pull back from.
    steps = {"data__train_rows": 12}
    of_fedit = finished(method="fedit", **steps).out
    assert tensors_of(finished(method="fedprox", fedprox__mu=0.0, **steps).out) == tensors_of(of_fedit)
    assert tensors_of(finished(method="fedprox", fedprox__mu=1.0, **steps).out) != tensors_of(of_fedit)
