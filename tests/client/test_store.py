"""What a client does not upload: kept per specification, and valid once the server has used the update."""

from dataclasses import replace

import torch

from fedlease.client.store import WARMUP_SLOT, Private
from fedlease.core.row_noise import Amount
from fedlease.core.types import AdapterSpec, ClientModel

SPEC = AdapterSpec(r=2, alpha=4, dropout=0.0, target_modules=("m",))
MODEL = ClientModel(SPEC, {})


def test_private_tensors_belong_to_a_spec_and_heads_to_the_client() -> None:
    other = AdapterSpec(r=3, alpha=4, dropout=0.0, target_modules=("m",))
    trained = Private().trained(1, SPEC, {"m/A/0": torch.ones(2), "head/w": torch.full((2,), 5.0)})
    private = trained.accepted(1, MODEL)
    assert private.slots.keys() == {SPEC.fingerprint(), "head"} and private.names == {"m/A/0", "head/w"}
    laid = private.overlay(ClientModel(SPEC, {"m/A/0": torch.zeros(2), "m/B/0": torch.zeros(2)}))
    assert laid["m/A/0"].tolist() == [1, 1] and laid["m/B/0"].tolist() == [0, 0] and "head/w" not in laid
    assert private.accepted(1, ClientModel(other, {})).slots.keys() == {"head"}


def test_what_was_trained_holds_once_the_server_says_that_it_was_used() -> None:
    first = Private().trained(1, SPEC, {"m/A/0": torch.ones(2)}).accepted(1, MODEL)
    second = first.trained(2, SPEC, {"m/A/0": torch.zeros(2)})
    assert second.overlay(ClientModel(SPEC, {"m/A/0": torch.full((2,), 7.0)}))["m/A/0"].tolist() == [1, 1], (
        "still pending"
    )
    assert second.accepted(2, MODEL).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [0, 0]
    assert second.accepted(1, MODEL).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [1, 1], "the update was not used"
    assert second.accepted(1, MODEL).names == {"m/A/0"} and second.accepted(None, MODEL) == Private()


def test_a_sketched_warm_up_lasts_as_long_as_models_ask_for_it_and_is_laid_over_no_other() -> None:
    warmed = ClientModel(SPEC, {"m/A/0": torch.zeros(2)}, warmed=True)
    private = Private().trained(1, SPEC, {"m/A/0": torch.ones(2)}, sketched=True).accepted(1, warmed)
    assert private.slots.keys() == {WARMUP_SLOT}
    assert private.overlay(warmed)["m/A/0"].tolist() == [1, 1]
    # The first expert may have the very spec of the warm-up.
    assert private.overlay(replace(warmed, warmed=False))["m/A/0"].tolist() == [0, 0]
    assert private.accepted(1, warmed) == private and private.accepted(2, MODEL).slots == {}


def test_what_was_spent_outlives_every_update_and_is_no_tensor_of_the_client() -> None:
    """Of a refused update, a new adapter, and a server that forgot the client."""
    private = Private().spending(Amount(3)).spending(Amount(4, 2))
    assert private.spent == Amount(7, 2)
    assert private.names == frozenset()
    for later in (private.accepted(None, MODEL), private.accepted(5, MODEL), private.trained(1, SPEC, {})):
        assert later.spent == Amount(7, 2)
    assert Private().spent == Amount()
