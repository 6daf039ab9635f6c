"""What a client does not upload: kept per specification, and valid once the server has used the update."""

import torch

from fedlease.client.store import Private
from fedlease.core.row_noise import Amount
from fedlease.core.types import AdapterSpec

SPEC = AdapterSpec(r=2, alpha=4, dropout=0.0, target_modules=("m",))


def test_private_tensors_belong_to_a_spec_and_heads_to_the_client() -> None:
    other = AdapterSpec(r=3, alpha=4, dropout=0.0, target_modules=("m",))
    trained = Private().trained(1, SPEC, {"m/A/0": torch.ones(2), "head/w": torch.full((2,), 5.0)})
    private = trained.accepted(1, SPEC)
    assert private.slots.keys() == {SPEC.fingerprint(), "head"} and private.names == {"m/A/0", "head/w"}
    laid = private.overlay(SPEC, {"m/A/0": torch.zeros(2), "m/B/0": torch.zeros(2)})
    assert laid["m/A/0"].tolist() == [1, 1] and laid["m/B/0"].tolist() == [0, 0] and "head/w" not in laid
    assert private.accepted(1, other).slots.keys() == {"head"}


def test_what_was_trained_holds_once_the_server_says_that_it_was_used() -> None:
    first = Private().trained(1, SPEC, {"m/A/0": torch.ones(2)}).accepted(1, SPEC)
    second = first.trained(2, SPEC, {"m/A/0": torch.zeros(2)})
    assert second.overlay(SPEC, {"m/A/0": torch.full((2,), 7.0)})["m/A/0"].tolist() == [1, 1], "still pending"
    assert second.accepted(2, SPEC).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [0, 0]
    assert second.accepted(1, SPEC).slots[SPEC.fingerprint()]["m/A/0"].tolist() == [1, 1], "the update was not used"
    assert second.accepted(1, SPEC).names == {"m/A/0"} and second.accepted(None, SPEC) == Private()


def test_what_was_spent_outlives_every_update_and_is_no_tensor_of_the_client() -> None:
    """Of a refused update, a new adapter, and a server that forgot the client."""
    private = Private().spending(Amount(3)).spending(Amount(4, 2))
    assert private.spent == Amount(7, 2)
    assert private.names == frozenset()
    for later in (private.accepted(None, SPEC), private.accepted(5, SPEC), private.trained(1, SPEC, {})):
        assert later.spent == Amount(7, 2)
    assert Private().spent == Amount()
