"""Some of the recorded runs, as they were; ``golden.py check`` runs all of them."""

import pytest
from reference.golden import SEEDS, VARIANTS, environment, recorded, run_variant

# Together they pass through every method, both tasks, sampling, shared heads and the variants that keep a state.
SOME = ("all-methods", "sampled-shared", "gen-loss", "reallocate-product-shrink")


def test_every_variant_is_recorded() -> None:
    assert set(recorded()["runs"]) == {f"{name}/{seed}" for name in VARIANTS for seed in SEEDS}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_results_are_the_recorded_ones_to_the_bit(name: str) -> None:
    made_on = recorded()["environment"]
    if made_on != environment():
        pytest.skip(f"recorded with {made_on}, and this is {environment()}: bits depend on both")
    assert run_variant(name, seed=1) == recorded()["runs"][f"{name}/1"]
