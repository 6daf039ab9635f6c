"""The laws of a client in a secure sum: what it gives out, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedlease.client.messages import Masked, Refused, Train, Trained
from fedlease.client.secure_sums import Member
from fedlease.client.sum_messages import AskKeys, AskSeeds, AskShares, Masking, SumAsk, SumKeys, SumSeeds
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Sketch, Stage

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

NAME = "q/B/0"
MEMBERS = ("a", "b", "c", "d")
SPEC = AdapterSpec(1, 1.0, 0.0, ("q",))


def train(step: int = 1, phase: str = "experts", masking: Masking | None = None) -> Train:
    model = ClientModel(SPEC, {NAME: torch.zeros(3, 1)})
    task = ClientTask(phase, step, model, (Stage(frozenset({NAME}), 1),), frozenset({NAME}))
    return Train("fedit", step, task, masking=masking)


def trained(client: str, value: float = 1.0) -> Trained:
    tensors = {NAME: torch.full((3, 1), value)}
    return Trained(ClientUpdate(client, "experts", 1, 2, tensors, metrics={"loss": 0.5}), None, 1, 0.0, 0.0)


class Sum:
    """A sum whose messages a test may change."""

    def __init__(self, step: int = 1, session: str = "5" * 32, members: dict[str, Member] | None = None) -> None:
        self.members = members or {client: Member(client) for client in MEMBERS}
        self.ask = AskKeys("fedit", step, session, MEMBERS, 3, True, 1e-7, 6)
        self.step, self.session = step, session

    def keys(self) -> dict[str, SumKeys]:
        self.public = {client: told(member, self.ask) for client, member in self.members.items()}
        return self.public

    def shares(self) -> dict[str, Any]:
        ask = AskShares("fedit", self.step, self.session, self.keys())
        self.sealed = {client: told(member, ask).sealed for client, member in self.members.items()}
        return self.sealed

    def request(self, client: str) -> Train:
        sealed = {other: own[client] for other, own in self.sealed.items() if other != client}
        return train(self.step, masking=Masking(self.session, sealed))

    def masked(self) -> dict[str, Any]:
        self.shares()
        found = {}
        for client, member in self.members.items():
            assert member.accepts(self.request(client)) is None
            found[client] = member.masked(self.request(client), trained(client))
        return found

    def seeds(self, *survivors: str) -> AskSeeds:
        return AskSeeds("fedit", self.step, self.session, survivors)


def told(member: Member, ask: SumAsk) -> Any:
    reply = member.tell(ask)
    assert not isinstance(reply, Refused), reply.reason
    return reply


def refusal(reply: object) -> str:
    assert isinstance(reply, Refused)
    return reply.reason


def test_an_update_leaves_masked_alone() -> None:
    found = Sum().masked()["a"]
    assert isinstance(found, Masked) and found.trained.update.tensors == {}
    # The weight and three values of six bytes each.
    assert found.values.shape == (4 * 6,) and found.values.dtype == torch.uint8
    again = Sum(session="6" * 32).masked()["a"].values
    assert int((found.values == again).sum()) < 6, "24 random bytes agree in 6 places once in five million times"


def test_of_each_client_a_share_of_its_seed_or_of_its_key_leaves_and_never_both() -> None:
    one = Sum()
    one.masked()
    for helper in "abc":
        reply = told(one.members[helper], one.seeds("a", "b", "c"))
        assert isinstance(reply, SumSeeds)
        assert {*reply.seeds} == {"a", "b", "c"} and {*reply.keys} == {"d"}


def test_a_client_helps_to_unmask_once() -> None:
    one = Sum()
    one.masked()
    told(one.members["a"], one.seeds("a", "b", "c"))
    for survivors in (("a", "b", "c"), ("a", "b", "d")):
        assert "out of order" in refusal(one.members["a"].tell(one.seeds(*survivors)))


def test_of_one_step_no_two_sums_that_differ_are_unmasked() -> None:
    one = Sum()
    one.masked()
    told(one.members["a"], one.seeds("a", "b", "c"))
    # The server was stopped, and makes the step again: the same clients are summed, no others.
    again = Sum(session="6" * 32, members=one.members)
    again.masked()
    assert "the difference would show an update" in refusal(again.members["a"].tell(again.seeds("a", "b", "c", "d")))
    third = Sum(session="7" * 32, members=one.members)
    third.masked()
    told(third.members["a"], third.seeds("a", "b", "c"))


@pytest.mark.parametrize(
    ("survivors", "why"),
    [
        (("a", "b"), "2 masked updates have come, 3 are needed"),
        (("b", "c", "d"), "the survivors are not those who have shared, this one among them"),
        (("a", "b", "e"), "the survivors are not those who have shared, this one among them"),
    ],
)
def test_too_few_survivors_or_others_than_its_own_are_refused(survivors: tuple[str, ...], why: str) -> None:
    one = Sum()
    one.masked()
    assert why in refusal(one.members["a"].tell(one.seeds(*survivors)))
    assert one.members["a"].memory.secret == one.members["a"].memory.seed == "", "a refused sum is forgotten"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"members": ("a", "b")}, "needs 3 clients or more"),
        ({"members": ("b", "c", "d")}, "this one among them"),
        ({"members": ("a", "a", "b")}, "each once"),
        ({"threshold": 2}, "more than half of 4 clients must be left, not 2"),
        ({"threshold": 5}, "more than half of 4 clients must be left, not 5"),
        ({"width": 9}, "out of range"),
    ],
)
def test_a_sum_that_hides_nothing_is_refused(changes: dict[str, Any], why: str) -> None:
    assert why in refusal(Member("a").tell(replace(Sum().ask, **changes)))


def test_a_replayed_or_earlier_sum_is_refused() -> None:
    one = Sum(step=2)
    one.masked()
    told(one.members["a"], one.seeds("a", "b", "c"))
    assert "has already begun" in refusal(one.members["a"].tell(one.ask))
    assert "has already begun" in refusal(one.members["a"].tell(Sum(step=1, session="8" * 32).ask))


def test_keys_that_are_not_its_members_own_are_refused() -> None:
    for change in ("own", "twice", "stranger", "few"):
        one = Sum()
        keys = one.keys()
        odd = {
            "own": keys | {"a": keys["b"]},
            "twice": keys | {"c": keys["b"]},
            "stranger": keys | {"e": SumKeys("1" * 64, "2" * 64)},
            "few": {client: keys[client] for client in "ab"},
        }[change]
        why = "2 clients have sent keys, 3 are needed" if change == "few" else "each with its own"
        assert why in refusal(one.members["a"].tell(AskShares("fedit", 1, one.session, odd)))


def test_shares_of_another_sum_client_or_member_are_refused() -> None:
    for change in ("session", "swapped", "stranger", "few"):
        one = Sum()
        one.shares()
        masking = one.request("a").masking
        assert masking is not None
        sealed = masking.sealed
        odd, why = {
            "session": (Masking("9" * 32, sealed), "another secure sum"),
            # Sealed for d, or by another than it says.
            "swapped": (replace(masking, sealed=sealed | {"b": one.sealed["b"]["d"]}), "was not sealed for"),
            "stranger": (
                replace(masking, sealed=sealed | {"e": sealed["b"]}),
                "clients that are not in the secure sum",
            ),
            "few": (replace(masking, sealed={"b": sealed["b"]}), "2 clients have shared, 3 are needed"),
        }[change]
        reply = one.members["a"].accepts(train(masking=odd))
        assert why in refusal(reply)


def test_messages_out_of_order_are_refused() -> None:
    member = Member("a")
    assert "out of order" in refusal(member.tell(AskShares("fedit", 1, "5" * 32, {})))
    assert "out of order" in refusal(member.tell(AskSeeds("fedit", 1, "5" * 32, ("a", "b", "c"))))
    assert "out of order" in refusal(member.accepts(train(masking=Masking("5" * 32, {}))))


def test_no_update_after_the_warm_up_leaves_without_masks_and_no_warm_up_after_masks() -> None:
    one = Sum()
    member = one.members["a"]
    assert member.accepts(train(phase="warmup")) is None
    assert "is not sent without masks (privacy.secure_sums)" in refusal(member.accepts(train()))
    one.masked()
    assert "sends no warm-up after" in refusal(member.accepts(train(phase="warmup")))


def test_a_client_that_refuses_the_work_or_whose_values_are_too_large_leaves_the_sum() -> None:
    for reply in (Refused("its rows teach nothing"), trained("a", 1e4)):
        one = Sum()
        one.shares()
        member, request = one.members["a"], one.request("a")
        assert member.accepts(request) is None
        assert isinstance(member.masked(request, reply), Refused)
        assert "out of order" in refusal(member.tell(one.seeds("a", "b", "c")))


def test_a_client_sketches_its_warm_up_in_one_way_alone() -> None:
    """By other draws, and in the end by no draw, the sums would add up to the warm-up itself."""
    member = Member("a")
    first = train(phase="warmup")
    sketched = [replace(first, task=replace(first.task, sketch=Sketch(2, "B", seed))) for seed in (0, 1)]
    assert member.accepts(sketched[0]) is None and member.accepts(sketched[0]) is None
    for other in (sketched[1], first):
        refused = member.accepts(other)
        assert isinstance(refused, Refused)
        assert refused.reason == "it has sketched its warm-up in another way (privacy.sketch)"
