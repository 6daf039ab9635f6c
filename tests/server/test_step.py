"""What is recorded of a step."""

from fedlease.core.adapters import initial_adapter
from fedlease.core.types import ClientTask, Stage
from fedlease.data.federation import ClientCard
from fedlease.methods.base import CommonState
from fedlease.server.step import Step


def test_whoever_was_not_waited_for_is_named_whether_rounds_are_scored_or_not() -> None:
    adapter = initial_adapter({"m": (2, 2)}, r=1, alpha=1, dropout=0.0, seed=0)
    task = ClientTask("experts", 1, adapter, (Stage(adapter.names("AB"), 1),), upload=adapter.names("AB"))
    cards = {c: ClientCard(c, "t", ("x", "y"), False, 4, 0, 4, "") for c in ("a", "b")}
    state = CommonState(round=1, adapter=adapter, clients=dict.fromkeys(cards, 4))
    step = Step(1, state, dict.fromkeys(cards, task), frozenset())
    step.records["a"], step.late["b"] = {"score": 0.5}, "the round was closed"
    for score_rounds in (True, False):
        assert step.scored(cards, score_rounds=score_rounds)["left_out"] == {"b": "the round was closed"}
