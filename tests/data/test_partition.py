"""Label skew: every row once, a least number of rows each, skew that grows as alpha falls."""

import sys
from collections import Counter
from typing import Any

import pytest

from fedlease.config.data import DataSettings
from fedlease.data.dealing import Pool
from fedlease.data.federation import Row
from fedlease.data.partition import MIN_ROWS, deal, dirichlet_shares
from fedlease.errors import DataError, MissingPackageError

LABELS = ("no", "yes")


def pool(task: str = "t", size: int = 400, labels: tuple[str, ...] = LABELS) -> Pool:
    return Pool(task, labels, tuple(Row(f"{task} {n}", None, n % len(labels)) for n in range(size)))


def settings(**options: Any) -> DataSettings:
    return DataSettings(source="glue", **options)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(MissingPackageError) as caught:
        dirichlet_shares(pool(), 2, 1.0, 0)
    assert str(caught.value) == (
        "label skew (data.partition) needs the package flwr-datasets, which is not installed: "
        "run pip install 'fedlease[partition]'"
    )


class TestWithPackage:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("flwr_datasets", reason="flwr-datasets is not installed")

    @pytest.mark.parametrize("alpha", [0.3, 1, 100.0])
    def test_every_row_is_in_one_share_of_least_size(self, alpha: float) -> None:
        shares = dirichlet_shares(pool(), 4, alpha, 7)
        dealt = [row for share in shares for row in share]
        assert sorted(dealt, key=str) == sorted(pool().rows, key=str)
        assert min(map(len, shares)) >= MIN_ROWS

    def test_a_smaller_alpha_skews_more(self) -> None:
        def skew(alpha: float) -> float:
            shares = [s for seed in range(10) for s in dirichlet_shares(pool(), 4, alpha, seed)]
            return sum(max(Counter(row.label for row in share).values()) / len(share) for share in shares) / len(shares)

        assert skew(0.2) > 0.7 > 0.6 > skew(100.0) >= 0.5

    @pytest.mark.parametrize(("extra", "said"), [((), "only y has one"), (("z",), "only y, z have one")])
    def test_tasks_with_and_without_a_second_text_are_not_pooled(self, extra: tuple[str, ...], said: str) -> None:
        rows = tuple(Row(f"row {n}", "and then", n % 2) for n in range(400))
        pairs = [Pool(task, LABELS, rows) for task in ("y", *extra)]
        with pytest.raises(DataError, match=rf"data.partition: 'dirichlet' pools all tasks, .*{said}; configure"):
            deal([pool("x"), *pairs], settings(partition="dirichlet"), 0)

    def test_task_and_label_keeps_tasks_apart(self) -> None:
        clients, _ = deal([pool("x"), pool("y")], settings(partition="task-and-label", clients_per_task=3), 0)
        assert [client.id for client in clients] == ["x-0", "x-1", "x-2", "y-0", "y-1", "y-2"]
        for client in clients:
            assert {row.text.split()[0] for row in (*client.train, *client.test)} == {client.task}
            assert client.labels == LABELS

    def test_dirichlet_pools_tasks_of_one_label_list(self) -> None:
        clients, notes = deal([pool("x"), pool("y")], settings(partition="dirichlet", clients_per_task=2), 0)
        assert [client.id for client in clients] == [f"pooled-{n}" for n in range(4)]
        assert sum(len(client.train) + len(client.test) for client in clients) == 800
        assert notes == []
        (single, *_), _ = deal([pool("x")], settings(partition="dirichlet", clients_per_task=2), 0)
        assert (single.id, single.task) == ("x-0", "x")

    def test_dirichlet_refuses_different_label_lists(self) -> None:
        with pytest.raises(DataError) as caught:
            deal([pool("x"), pool("y", labels=("a", "b", "c"))], settings(partition="dirichlet"), 0)
        assert str(caught.value) == (
            "data.partition: 'dirichlet' pools all tasks, which then need one label list, and they have several "
            "(x: no, yes; y: a, b, c); configure tasks of one label list or use 'task-and-label'"
        )

    def test_row_counts_are_limits_and_short_clients_are_named(self) -> None:
        options = {"partition": "dirichlet", "clients_per_task": 4, "train_rows": 80, "test_rows": 20}
        clients, notes = deal([pool()], settings(**options), 3)
        short = {client.id for client in clients if len(client.train) < 80}
        # 4 x 100 rows are asked of 400, so an uneven draw leaves at least one client short
        assert short
        assert {note.split("'")[1] for note in notes} == short
        for client in clients:
            assert 1 <= len(client.train) <= 80
            assert 1 <= len(client.test) <= 20
            assert abs(len(client.test) - (len(client.train) + len(client.test)) / 5) <= 0.5  # 20 of 100

    def test_the_seed_determines_the_deal(self) -> None:
        deals = [deal([pool()], settings(partition="dirichlet", valid_fraction=0.1), seed)[0] for seed in (0, 0, 1)]
        assert deals[0] == deals[1]
        assert deals[0] != deals[2]

    def test_too_few_rows_and_hopeless_draws_are_errors(self) -> None:
        with pytest.raises(
            DataError, match=r"rows run out: 4 clients x at least 5 rows, but there are 19 distinct rows"
        ):
            dirichlet_shares(pool(size=19), 4, 1.0, 0)
        with pytest.raises(DataError, match=r"data\.alpha: no draw of Dirichlet\(0\.001\) gives each of 8 clients"):
            dirichlet_shares(pool(), 8, 0.001, 0)
