"""Sums beneath a transport: exact, whoever vanishes, and with no single update in what the server sees."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from fedlease.client.messages import Masked, Refused, Reply, Request, Score, Scored, Train, Trained
from fedlease.client.secure_sums import Member
from fedlease.client.sum_messages import AskKeys, AskSeeds, AskShares, SumAsk, SumSeeds
from fedlease.core.aggregate import weighted_mean
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.data.federation import ClientCard
from fedlease.server.group_sum import Rules
from fedlease.server.secure_sums import SecureSums

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

UNIT = 1e-7
RULES = Rules(UNIT, 1 / 3, weighted=True)
SPEC = AdapterSpec(1, 1.0, 0.0, ("q",))
NAME = "q/B/0"
ROWS = {client: 10 * number for number, client in enumerate("abcdef", 1)}
STAGES = {"keys": AskKeys, "shares": AskShares, "work": Train, "seeds": AskSeeds}


@dataclass
class Clients:
    """Clients whose updates are known; some vanish at one message round, and everything that travels is kept."""

    updates: Mapping[str, Tensors]
    vanish: Mapping[str, type] = field(default_factory=dict)
    lie: Any = None
    members: dict[str, Member] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)

    def clients(self) -> Mapping[str, ClientCard]:
        return {client: ClientCard(client, "t", ("0", "1"), False, ROWS[client], 0, 0, "") for client in self.updates}

    def send(self, requests: Mapping[str, Request]) -> Iterator[tuple[str, Reply]]:
        for client, request in requests.items():
            yield client, self.came(client, request, self.reply(client, request))

    def ask(self, asked: Mapping[str, SumAsk]) -> Iterator[tuple[str, Any]]:
        for client, ask in asked.items():
            yield client, self.came(client, ask, self.members.setdefault(client, Member(client)).tell(ask))

    def reply(self, client: str, request: Request) -> Reply:
        if not isinstance(request, Train):
            return Scored(0.5)
        member = self.members.setdefault(client, Member(client))
        assert member.accepts(request) is None
        task = request.task
        update = ClientUpdate(client, task.phase, task.round, ROWS[client], self.updates[client], metrics={"loss": 1.0})
        own = Trained(update, None, 1, 2.0, 0.0)
        return own if request.masking is None else member.masked(request, own)

    def came(self, client: str, request: Any, reply: Any) -> Any:
        if self.vanish.get(client) is type(request):
            return Refused("is gone")
        reply = self.lie(client, reply) if self.lie else reply
        self.seen.append(reply)
        return reply


def updates_of(clients: str = "abcdef") -> dict[str, Tensors]:
    rng = torch.Generator().manual_seed(0)
    return {client: {NAME: torch.randn(40, 1, generator=rng, dtype=torch.float64)} for client in clients}


def sums_of(clients: Clients, rules: Rules = RULES) -> SecureSums:
    return SecureSums(clients, clients, clients.clients(), rules)


def requests_of(clients: str = "abcdef", *, phase: str = "experts", groups: str = "", **fields: Any) -> Any:
    model = ClientModel(SPEC, {NAME: torch.zeros(40, 1, dtype=torch.float64)})
    task = ClientTask(phase, 1, model, (Stage(frozenset({NAME}), 1),), frozenset({NAME}))
    numbers = groups or "0" * len(clients)
    return {
        client: Train("fedit", 1, task, group=int(number), **fields)
        for client, number in zip(clients, numbers, strict=True)
    }


def plain(updates: Mapping[str, Tensors], clients: str) -> torch.Tensor:
    return weighted_mean([updates[client] for client in clients], [ROWS[client] for client in clients])[NAME]


def assert_is_mean(replies: Mapping[str, Any], updates: Mapping[str, Tensors], clients: str) -> None:
    """Everyone's reply is the plain mean, up to half a unit x clients / rows."""
    bound = UNIT * len(clients) / (2 * sum(ROWS[client] for client in clients))
    for client in clients:
        reply = replies[client]
        assert isinstance(reply, Trained) and reply.summed == len(clients)
        assert float((reply.update.tensors[NAME] - plain(updates, clients)).abs().max()) <= bound + 1e-15


def test_every_group_gets_its_own_mean_and_what_is_no_update_passes() -> None:
    updates = updates_of()
    requests: dict[str, Any] = requests_of("abcdef", groups="010101") | {"b": Score("fedit", ClientModel(SPEC, {}))}
    requests |= {"g": Score("fedit", ClientModel(SPEC, {}))}
    replies = dict(sums_of(Clients(updates)).send(requests))
    assert_is_mean(replies, updates, "ace")
    assert replies["b"] == replies["g"] == Scored(0.5)
    # Of the other group two are left, which is no crowd.
    assert replies["d"].reason == "only 2 clients of its cluster were asked, and a secure sum needs 3"


@pytest.mark.parametrize("stage", STAGES)
def test_any_third_of_a_cluster_may_vanish_at_every_message_round(stage: str) -> None:
    updates = updates_of()
    clients = Clients(updates, dict.fromkeys("be", STAGES[stage]))
    replies = dict(sums_of(clients).send(requests_of()))
    # Who vanishes once its masked update is there is in the sum all the same.
    survivors = "abcdef" if stage == "seeds" else "acdf"
    assert_is_mean(replies, updates, survivors)
    for client in {*"abcdef"} - {*survivors}:
        assert replies[client] == Refused("is gone")


@pytest.mark.parametrize("stage", STAGES)
def test_where_more_vanish_nothing_is_unmasked_and_everyone_is_told_why(stage: str) -> None:
    clients = Clients(updates_of(), dict.fromkeys("abe", STAGES[stage]))
    replies = dict(sums_of(clients).send(requests_of()))
    why = "3 of 6 clients of its cluster were left in its secure sum, 4 are needed"
    assert {replies[client].reason for client in "cdf"} == {why}
    if stage != "seeds":
        assert not any(isinstance(reply, SumSeeds) for reply in clients.seen)


def test_of_three_one_may_vanish_and_of_the_work_of_a_late_one_nothing_is_used() -> None:
    updates = updates_of("abc")
    replies = dict(sums_of(Clients(updates, {"b": Train})).send(requests_of("abc")))
    assert_is_mean(replies, updates, "ac")
    late = {"lie": lambda client, reply: slow(reply) if client == "b" else reply}
    replies = dict(sums_of(Clients(updates, **late)).send(requests_of("abc", seconds=10.0)))
    assert_is_mean(replies, updates, "ac")
    assert "b" not in replies, "the step says why it is late"


def slow(reply: Any) -> Any:
    return replace(reply, trained=replace(reply.trained, train_seconds=11.0)) if isinstance(reply, Masked) else reply


def test_uniform_weights_are_one_each() -> None:
    updates = updates_of("abc")
    replies = dict(sums_of(Clients(updates), replace(RULES, weighted=False)).send(requests_of("abc")))
    mean = sum(updates[client][NAME] for client in "abc") / 3
    assert float((replies["a"].update.tensors[NAME] - mean).abs().max()) <= UNIT / 2 + 1e-15


def test_the_server_sees_no_update_and_never_both_a_seed_and_a_key_of_one_client() -> None:
    updates = updates_of() | {"a": {NAME: torch.zeros(40, 1, dtype=torch.float64)}}
    clients = Clients(updates, {"e": Train})
    dict(sums_of(clients).send(requests_of()))
    masked = [reply for reply in clients.seen if isinstance(reply, Masked)]
    assert len(masked) == 5 and not any(reply.trained.update.tensors for reply in masked)
    # The update of a is zero throughout; none of its numbers is.
    own = next(reply for reply in masked if reply.trained.update.client == "a")
    assert all(own.values.reshape(41, -1).any(1))
    seeds = [reply for reply in clients.seen if isinstance(reply, SumSeeds)]
    assert {name for reply in seeds for name in reply.seeds} == {*"abcdf"}
    assert {name for reply in seeds for name in reply.keys} == {"e"}


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        (Masked, lambda r: r.trained, "its update was not masked"),
        (Masked, lambda r: replace(r, values=r.values[:-1]), "is not 41 numbers of"),
        (Masked, lambda r: replace(r, values=r.values.float()), "is not 41 numbers of"),
        (Masked, lambda r: replace(r, trained=replace(r.trained, summed=3)), "is not 41 numbers of"),
        (Masked, lambda r: Scored(0.1), "its reply is a Scored"),
    ],
)
def test_a_reply_of_another_form_is_left_out_of_the_sum(kind: type, change: Any, why: str) -> None:
    updates = updates_of("abcd")
    clients = Clients(updates, lie=lambda c, reply: change(reply) if c == "b" and isinstance(reply, kind) else reply)
    replies = dict(sums_of(clients).send(requests_of("abcd")))
    assert why in replies["b"].reason
    assert_is_mean(replies, updates, "acd")


@pytest.mark.parametrize("part", ["seeds", "values"])
def test_a_sum_that_is_spoilt_is_nobodys(part: str) -> None:
    def spoil(client: str, reply: Any) -> Any:
        if client == "a" and part == "seeds" and isinstance(reply, SumSeeds):
            return replace(reply, seeds={name: "01000000" + "7" * 32 for name in reply.seeds})
        if client == "a" and part == "values" and isinstance(reply, Masked):
            return replace(reply, values=reply.values ^ 1)
        return reply

    replies = dict(sums_of(Clients(updates_of("abcd"), lie=spoil)).send(requests_of("abcd")))
    assert all("the sum of its cluster cannot be unmasked" in replies[client].reason for client in "abcd")


def test_a_sum_beyond_what_its_clients_may_send_is_not_used() -> None:
    def spoil(client: str, reply: Any) -> Any:
        if client != "a" or not isinstance(reply, Masked):
            return reply
        # The highest bit of one number: more than all clients together may have.
        width = len(reply.values) // 41
        values = reply.values.clone()
        values[2 * width - 1] ^= 128
        return replace(reply, values=values)

    replies = dict(sums_of(Clients(updates_of("abcd"), lie=spoil)).send(requests_of("abcd")))
    assert all("values beyond 256, which no client may send" in replies[client].reason for client in "abcd")


def test_a_warm_up_is_the_clients_own_whatever_it_says() -> None:
    updates = updates_of("abc")
    clients = Clients(updates, lie=lambda c, reply: replace(reply, summed=9) if isinstance(reply, Trained) else reply)
    replies = dict(sums_of(clients).send(requests_of("abc", phase="warmup")))
    for client in "abc":
        assert replies[client].summed == 0 and replies[client].update.tensors is updates[client]
