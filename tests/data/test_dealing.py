"""Dealing pools: disjoint, seeded, split after dealing, never silently shared."""

from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.data.dealing import (
    Pool,
    deal_evenly,
    drop_duplicates,
    federation,
    generator,
    hold_out,
    split_sizes,
)
from fedlease.data.federation import ClientData, Row
from fedlease.errors import DataError


def pool(size: int = 100) -> Pool:
    return Pool("t", ("no", "yes"), tuple(Row(f"text {n}", None, n % 2) for n in range(size)))


def settings(**options: Any) -> DataSettings:
    return DataSettings(source="glue", **options)


def texts(rows: tuple[Row, ...]) -> set[str]:
    return {row.text for row in rows}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (16, 4)),  # a fifth of 20
        ({"test_fraction": 0.5}, (10, 10)),
        ({"train_rows": 5, "test_rows": 3}, (5, 3)),
        ({"train_rows": 5}, (5, 15)),
        ({"test_rows": 3}, (17, 3)),
        ({"train_rows": 30}, (30, -10)),  # more than the share: the caller refuses
    ],
)
def test_sizes_of_a_share(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert split_sizes(20, settings(**options)) == expected


def test_clients_are_disjoint_and_use_every_row() -> None:
    clients, notes = deal_evenly(pool(), settings(clients_per_task=4), 0)
    assert [client.id for client in clients] == ["t-0", "t-1", "t-2", "t-3"]
    dealt = [row.text for client in clients for row in (*client.train, *client.test)]
    assert len(dealt) == len(set(dealt)) == 100
    assert notes == []


def test_dealing_is_determined_by_the_seed() -> None:
    deals = [deal_evenly(pool(), settings(valid_fraction=0.2), seed)[0] for seed in (0, 0, 1)]
    assert deals[0] == deals[1]
    assert deals[0] != deals[2]


def test_running_out_of_rows_is_an_error_that_counts() -> None:
    with pytest.raises(DataError) as caught:
        deal_evenly(pool(), settings(clients_per_task=4, train_rows=25, test_rows=1), 0)
    assert str(caught.value) == (
        "task 't': rows run out: 4 clients (data.clients_per_task) x 25 train and 1 test rows (data.train_rows, "
        "data.test_rows), but there are 100 distinct rows; ask for fewer rows or clients, or set data.share_rows=true"
    )


@pytest.mark.parametrize(("train", "test"), [(40, 20), (90, 10), (30, None), (None, 60)])
def test_shared_rows_never_mix_train_and_test(train: int | None, test: int | None) -> None:
    clients, notes = deal_evenly(pool(), settings(train_rows=train, test_rows=test, share_rows=True), 0)
    every_train = set().union(*(texts(client.train) for client in clients))
    every_test = set().union(*(texts(client.test) for client in clients))
    assert not every_train & every_test
    for client in clients:
        assert len(texts(client.train)) == len(client.train) == (train or len(client.train))
        assert len(texts(client.test)) == len(client.test) == (test or len(client.test))
    assert len(notes) == 1


def test_sharing_counts_the_shared_places() -> None:
    # 100 rows at 40 : 20 are 67 + 33; 4 x 40 - 67 = 93 and 4 x 20 - 33 = 47 places are taken twice or more
    _, notes = deal_evenly(pool(), settings(train_rows=40, test_rows=20, share_rows=True), 0)
    assert notes == ["task 't': 100 rows for 4 clients, so shared rows fill 140 places"]


def test_sharing_is_used_only_when_rows_run_out() -> None:
    apart = deal_evenly(pool(), settings(train_rows=20, test_rows=5), 0)
    assert deal_evenly(pool(), settings(train_rows=20, test_rows=5, share_rows=True), 0) == apart


def test_a_client_cannot_hold_a_row_twice() -> None:
    with pytest.raises(DataError, match="a client cannot have a row twice: ask for fewer rows"):
        deal_evenly(pool(), settings(train_rows=90, test_rows=11, share_rows=True), 0)


def test_duplicates_keep_the_first_row() -> None:
    rows = [Row("a", None, 0), Row("a", "b", 0), Row("a", None, 1), Row("A", None, 0)]
    assert drop_duplicates(rows) == ((rows[0], rows[1], rows[3]), 1)


def test_holding_out_keeps_order_and_every_label() -> None:
    rows = [Row(str(n), None, int(n == 3)) for n in range(10)]
    kept, held = hold_out(rows, 4, generator(0, "x"))
    assert len(held) == 4
    assert rows[3] in kept
    assert sorted(kept + held, key=rows.index) == rows
    assert [rows.index(row) for row in held] == sorted(rows.index(row) for row in held)
    assert hold_out(rows[:1], 1, generator(0, "x")) == (tuple(rows[:1]), ())


def test_two_clients_of_one_id_are_refused() -> None:
    rows = (Row("a", None, 0), Row("b", None, 1))
    member = ClientData("c", "t", ("no", "yes"), rows, (), rows)
    with pytest.raises(DataError, match="client 'c': the id occurs 2 times"):
        federation([member, member], ())


def answered(*rows: tuple[str, str]) -> tuple[Row, ...]:
    return tuple(Row(text, None, 0, response) for text, response in rows)


def test_an_answer_makes_another_row_and_a_turn_too() -> None:
    rows = [*answered(("a", "x"), ("a", "y"), ("a", "x")), Row("a", None, 0, "x", (("user", "b"),))]
    assert drop_duplicates(rows) == ((rows[0], rows[1], rows[3]), 1)


def test_any_answered_row_but_the_last_may_be_held_out() -> None:
    rows = answered(*((f"t{n}", f"r{n}") for n in range(5)))
    assert [len(part) for part in hold_out(rows, 2, generator(0, "x"))] == [3, 2]
    assert [len(part) for part in hold_out(rows, 9, generator(0, "x"))] == [1, 4]


def test_nothing_is_said_of_the_labels_of_clients_without_labels() -> None:
    rows = answered(("a", "x"), ("b", "x"))
    member = ClientData("c", "t", (), rows, (), answered(("c", "x")))
    assert federation([member], ()).warnings == ()
    with pytest.raises(DataError, match="client 'c': the id occurs 2 times"):
        federation([member, member], ())
