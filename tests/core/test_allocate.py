"""Phase 1: distances, average linkage, the silhouette's choice of M, and where late clients go."""

import dataclasses
import math

import pytest
import torch
from reference import equations
from torch import Tensor

from fedlease.core.allocate import allocate, assign, joined
from fedlease.core.clustering import best_k
from fedlease.core.distances import distances, product_distances
from fedlease.core.placement import centroids, place


def vectors(**clients: list[float]) -> dict[str, dict[str, Tensor]]:
    """One module ``q``, each B a single column."""
    return {client: {"q": torch.tensor(values).view(-1, 1)} for client, values in clients.items()}


def at_angles(**degrees: float) -> dict[str, dict[str, Tensor]]:
    """Unit vectors in the plane, so that d(i, j) = 1 - cos(angle between)."""
    return vectors(**{c: [math.cos(math.radians(a)), math.sin(math.radians(a))] for c, a in degrees.items()})


def planted(sizes: list[int], *, spread: float, seed: int = 0, modules: int = 3) -> dict[str, dict[str, Tensor]]:
    """Groups of clients around random centres; clients are named c00, c01, ... group after group."""
    g = torch.Generator().manual_seed(seed)
    b: dict[str, dict[str, Tensor]] = {}
    for size in sizes:
        centre = {f"m{m}": torch.randn(16, 4, generator=g) for m in range(modules)}
        for _ in range(size):
            noisy = {name: value + spread * torch.randn(16, 4, generator=g) for name, value in centre.items()}
            b[f"c{len(b):02d}"] = noisy
    return b


def plain(b: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
    return {client: {m: t.double().flatten().tolist() for m, t in parts.items()} for client, parts in b.items()}


class TestDistances:
    def test_known_cosines(self) -> None:
        # cos(a, b) = 0, cos(a, c) = -1, cos(a, e) = cos 60 degrees = 1/2, cos(b, e) = sqrt(3) / 2.
        b = vectors(a=[1.0, 0.0], b=[0.0, 2.0], c=[-3.0, 0.0], e=[0.5, math.sqrt(3) / 2])
        clients, d = distances(b)
        assert clients == ["a", "b", "c", "e"]
        s = 1 - math.sqrt(3) / 2
        expected = [[0, 1, 2, 0.5], [1, 0, 1, s], [2, 1, 0, 1.5], [0.5, s, 1.5, 0]]
        torch.testing.assert_close(d, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)

    def test_modules_count_alike_whatever_their_size(self) -> None:
        # q agrees (1 - cos = 0), v is opposite (1 - cos = 2): the mean is 1 although v has ten times the entries.
        q, v = torch.ones(2, 1), torch.ones(20, 1)
        _, d = distances({"a": {"q": q, "v": v}, "b": {"q": q, "v": -v}})
        assert d[0, 1].item() == pytest.approx(1, abs=1e-12)

    def test_is_symmetric_with_a_zero_diagonal_in_float64(self) -> None:
        _, d = distances(planted([3, 4], spread=1.0))
        assert d.dtype == torch.float64
        assert torch.equal(d, d.T)
        assert torch.equal(d.diagonal(), torch.zeros(7, dtype=torch.float64))
        assert 0 <= d.min() <= d.max() <= 2

    def test_equals_the_plain_loop(self) -> None:
        b = planted([3, 2, 4], spread=2.0)
        b["c01"]["m1"] = torch.zeros(16, 4)
        b["c05"]["m1"] = torch.zeros(16, 4)
        clients, d = distances(b)
        loop = plain(b)
        expected = [[equations.distance(loop[i], loop[j]) for j in clients] for i in clients]
        torch.testing.assert_close(d, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)

    def test_below_a_millionth_counts_as_identical(self) -> None:
        # 1 - cos(angle) is angle^2 / 2: .001 rad gives 5e-7, .002 rad gives 2e-6.
        _, d = distances(vectors(a=[1.0, 0.0], b=[1.0, 0.001], c=[1.0, -0.001]))
        assert d[0, 1] == d[0, 2] == 0
        assert d[1, 2].item() == pytest.approx(2e-6, rel=0.01)

    def test_rounding_in_float32_is_no_distance(self) -> None:
        g = torch.Generator().manual_seed(0)
        base = torch.randn(64, 8, generator=g)
        b = {f"c{i}": {"q": base * (1 + 1e-7 * torch.randn(64, 8, generator=g))} for i in range(5)}
        assert not torch.equal(b["c0"]["q"], b["c1"]["q"])
        assert torch.equal(distances(b)[1], torch.zeros(5, 5, dtype=torch.float64))

    def test_a_module_without_direction(self) -> None:
        # zero to zero 0, zero to non-zero 1; v is the same everywhere and adds 0; two modules halve it.
        v = torch.ones(3, 2)
        zero, some = torch.zeros(3, 2), torch.ones(3, 2)
        _, d = distances({"a": {"q": zero, "v": v}, "b": {"q": zero, "v": v}, "c": {"q": some, "v": v}})
        expected = [[0, 0, 0.5], [0, 0, 0.5], [0.5, 0.5, 0]]
        torch.testing.assert_close(d, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
    def test_magnitude_does_not_matter(self, scale: float) -> None:
        b = planted([2, 3], spread=1.0)
        scaled = {client: {m: t * scale for m, t in parts.items()} for client, parts in b.items()}
        torch.testing.assert_close(distances(scaled)[1], distances(b)[1], atol=1e-6, rtol=0)

    def test_smallest_and_largest_float64(self) -> None:
        tiny = torch.tensor([[3e-300], [4e-300]], dtype=torch.float64)
        huge = torch.tensor([[3e300], [4e300]], dtype=torch.float64)
        assert distances({"a": {"q": tiny}, "b": {"q": huge}})[1].tolist() == [[0, 0], [0, 0]]

    def test_accepts_bfloat16_and_leaves_its_arguments_alone(self) -> None:
        b = {"a": {"q": torch.ones(2, 2, dtype=torch.bfloat16)}, "b": {"q": -torch.ones(2, 2, dtype=torch.bfloat16)}}
        before = {client: parts["q"].clone() for client, parts in b.items()}
        assert distances(b)[1][0, 1] == pytest.approx(2)
        assert all(torch.equal(b[client]["q"], before[client]) for client in b)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_refuses_values_that_are_not_finite_and_names_the_client(self, bad: float) -> None:
        b = vectors(anna=[1.0, 2.0], bert=[1.0, bad])
        with pytest.raises(ValueError, match=r"^q: B of client 'bert' holds values that are NaN or infinite$"):
            distances(b)

    def test_refuses_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="at least one client, received none"):
            distances({})
        with pytest.raises(ValueError, match="at least one module, client 'a' has none"):
            distances({"a": {}})
        with pytest.raises(ValueError, match=r"client 'b' has modules \['v'\], client 'a' has \['q'\]"):
            distances({"a": {"q": torch.ones(2, 1)}, "b": {"v": torch.ones(2, 1)}})
        with pytest.raises(ValueError, match=r"q: B of client 'b' has shape \(1, 2\), B of client 'a' has \(2, 1\)"):
            distances({"a": {"q": torch.ones(2, 1)}, "b": {"q": torch.ones(1, 2)}})


class TestAllocate:
    def test_silhouette_of_four_points_by_hand(self) -> None:
        # Angles 0, 60, 90, 180 degrees: d = 1 - cos. d01 = .5, d02 = 1, d03 = 2, d12 = 1 - cos 30 = .1340,
        # d13 = 1 - cos 120 = 1.5, d23 = 1. Average linkage: {1, 2} at .1340, then {0, 1, 2} at (.5 + 1) / 2 = .75
        # against 3's 1.25 and 2.
        # k = 3, {0} {1, 2} {3}: singletons score 0. 1: a = .1340, b = min(.5, 1.5) = .5, s = .7321;
        #   2: b = min(1, 1) = 1, s = .8660. S(3) = 1.5981 / 4 = .39952.
        # k = 2, {0, 1, 2} {3}: 0: a = .75, b = 2, s = .625; 1: a = .3170, b = 1.5, s = .7887;
        #   2: a = .5670, b = 1, s = .4330. S(2) = 1.8467 / 4 = .46168.
        allocation = allocate(at_angles(a=0, b=60, c=90, d=180))
        c30 = math.cos(math.radians(30))
        d12 = 1 - c30
        expected_3 = ((0.5 - d12) / 0.5 + (1 - d12)) / 4
        expected_2 = (1.25 / 2 + (1.5 - (0.5 + d12) / 2) / 1.5 + (1 - (1 + d12) / 2)) / 4
        assert allocation.silhouettes == pytest.approx({2: expected_2, 3: expected_3}, abs=1e-6)
        assert allocation.silhouettes == pytest.approx({2: 0.46168, 3: 0.39952}, abs=1e-4)
        assert allocation.num_experts == 2
        assert allocation.assignment == {"a": 0, "b": 0, "c": 0, "d": 1}

    def test_clustering_and_silhouettes_equal_the_plain_loop(self) -> None:
        b = planted([4, 3, 5], spread=1.2, seed=3)
        allocation = allocate(b)
        d = allocation.distances.tolist()
        for k in range(2, 9):
            clusters = equations.average_linkage(d, k)
            assert allocation.silhouettes[k] == pytest.approx(equations.silhouette(d, clusters), abs=1e-9)
        best = max(range(2, 9), key=lambda k: allocation.silhouettes[k])
        found = {frozenset(map(int, (c[1:] for c in allocation.members(e)))) for e in range(allocation.num_experts)}
        assert found == set(map(frozenset, equations.average_linkage(d, best)))

    def test_finds_planted_groups_of_unequal_size(self) -> None:
        allocation = allocate(planted([4, 2, 5, 3], spread=0.5))
        assert allocation.num_experts == 4
        assert [len(allocation.members(e)) for e in range(4)] == [4, 2, 5, 3]
        assert allocation.warnings == ()

    def test_experts_are_numbered_by_their_smallest_client(self) -> None:
        # Two groups, named so that the second direction owns the first name.
        allocation = allocate(at_angles(z=0, y=1, b=90, a=91, m=0.5))
        assert allocation.assignment == {"a": 0, "b": 0, "m": 1, "y": 1, "z": 1}
        assert allocation.clients == ["a", "b", "m", "y", "z"]
        assert allocation.members(1) == ["m", "y", "z"]

    def test_guarded_lies_do_not_join_what_is_unlike_nor_part_what_is_alike(self) -> None:
        # Orthogonal parts: of the squared length .05 are everyone's, .2 the task's, .75 the client's own. So d is .75
        # within a task and .95 between them, of a flip 1.25 and 1.05.
        # A flip. As it should be, {a .. d} {e, f, g} {h}: S(3) = 7 (1 - .75 / .95) / 8 = .184. {a .. g} {h}: within it
        # .85 and .883, to h 1.05 and 1.25, S(2) = .205; guarded it is 1 to h, and S(2) = .119.
        # A copy. {a, h} {b, c, d} {e, f, g}: S(3) = (2 + 3 x .211) / 8 = .329. As it should be: S(2) = .26.
        parts = torch.eye(11) * torch.tensor([0.05, 0.2, 0.2, *[0.75] * 8]).sqrt()
        rows = {name: parts[0] + parts[1 + at // 4] + parts[3 + at] for at, name in enumerate("abcdefgh")}
        lies = {
            "nobody": ({}, ["abcd", "efgh"]),
            "a flip": ({"h": -rows["h"]}, ["abcd", "efg", "h"]),
            "two flips": ({"g": -rows["g"], "h": -rows["h"]}, ["abcd", "ef", "gh"]),
            "a copy": ({"h": rows["a"]}, ["abcdh", "efg"]),
        }
        wrong = []
        for name, (lie, expected) in lies.items():
            b = vectors(**{client: row.tolist() for client, row in {**rows, **lie}.items()})
            for guarded in (True, False):
                allocation = allocate(b, guarded=guarded)
                groups = ["".join(allocation.members(expert)) for expert in range(allocation.num_experts)]
                wrong += [(name, guarded)] if groups != expected else []
        assert wrong == [("a flip", False), ("two flips", False), ("a copy", False)]

    @pytest.mark.parametrize("degrees", [{"a": 0}, {"a": 0, "b": 180}])
    def test_one_or_two_clients_share_one_expert(self, degrees: dict[str, float]) -> None:
        allocation = allocate(at_angles(**degrees), min_silhouette=-1)
        assert allocation.num_experts == 1
        assert set(allocation.assignment.values()) == {0}
        assert allocation.silhouettes == {}

    def test_identical_clients_share_one_expert_even_when_always_splitting(self) -> None:
        g = torch.Generator().manual_seed(0)
        base = torch.randn(64, 8, generator=g)
        b = {f"c{i}": {"q": base * (1 + 1e-7 * torch.randn(64, 8, generator=g))} for i in range(6)}
        for min_silhouette in (0.05, -1.0):
            allocation = allocate(b, min_silhouette=min_silhouette)
            assert allocation.num_experts == 1
            assert allocation.silhouettes == {}

    @pytest.mark.parametrize("n", [8, 16, 32])
    @pytest.mark.parametrize("seed", range(3))
    def test_noise_gives_one_expert(self, n: int, seed: int) -> None:
        # The dims of MiniLM-L6 with r = 8: 12 modules of (384, 8).
        g = torch.Generator().manual_seed(seed)
        b = {f"c{i:02d}": {f"m{m}": torch.randn(384, 8, generator=g) for m in range(12)} for i in range(n)}
        allocation = allocate(b)
        assert allocation.num_experts == 1
        assert 0 < max(allocation.silhouettes.values()) < 0.05
        assert "no grouping separates the clients" in allocation.warnings[0]
        assert allocate(b, min_silhouette=-1).num_experts > 1

    def test_a_cut_with_fewer_than_k_clusters_is_skipped(self) -> None:
        # Two groups of identical clients: the tree has only the heights 0 and 1, so cuts for 3 and 4 do not exist.
        allocation = allocate(vectors(a=[1.0, 0.0], b=[2.0, 0.0], c=[0.0, 1.0], d=[0.0, 3.0], e=[0.0, 5.0]))
        assert allocation.silhouettes == {2: pytest.approx(1)}
        assert allocation.assignment == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1}

    def test_all_pairs_equally_far_cannot_be_cut(self) -> None:
        allocation = allocate({f"c{i}": {"q": torch.eye(4)[:, i : i + 1]} for i in range(4)}, min_silhouette=-1)
        assert allocation.num_experts == 1
        assert allocation.silhouettes == {}

    def test_equal_silhouettes_go_to_the_smaller_k(self) -> None:
        assert best_k({4: 0.25, 2: 0.1, 3: 0.25}) == 3
        assert best_k({2: 0.1, 3: 0.25, 4: 0.25 + 1e-15}) == 3  # within rounding
        assert best_k({2: 0.1, 3: 0.25, 4: 0.26}) == 4
        assert best_k({}) is None

    def test_the_best_silhouette_must_be_above_the_threshold(self) -> None:
        b = at_angles(a=0, b=60, c=90, d=180)
        best = allocate(b).silhouettes[2]
        assert allocate(b, min_silhouette=best).num_experts == 1  # equal is not above
        assert allocate(b, min_silhouette=math.nextafter(best, 0)).num_experts == 2
        assert allocate(b, min_silhouette=1).num_experts == 1

    def test_minus_one_always_splits_and_default_does_not(self) -> None:
        # Three directions, 120 degrees apart: d = 1.5 for every pair but for one turned by a degree.
        b = at_angles(a=0, b=119, c=240)
        # k = 2, {a, b} {c}: a: own d(a, b) < 1.5, others d(a, c) = 1.5.
        assert 0 < allocate(b).silhouettes[2] < 0.05
        assert allocate(b).num_experts == 1
        assert allocate(b, min_silhouette=-1).num_experts == 2

    def test_max_experts_bounds_k(self) -> None:
        b = planted([2, 2, 2, 2, 2], spread=0.2)
        assert allocate(b).num_experts == 5
        allocation = allocate(b, max_experts=3)
        assert set(allocation.silhouettes) == {2, 3}
        assert allocation.num_experts <= 3

    def test_k_stays_below_the_number_of_clients(self) -> None:
        assert set(allocate(planted([2, 3], spread=1.0)).silhouettes) == {2, 3, 4}

    def test_singletons_are_reported(self) -> None:
        allocation = allocate(at_angles(a=0, b=2, c=180))
        assert allocation.assignment == {"a": 0, "b": 0, "c": 1}
        assert allocation.warnings == ("expert 2 has one client, 'c': it is trained without aggregation",)

    def test_modules_without_direction_are_reported(self) -> None:
        b = {c: {"q": torch.ones(2, 1), "v": torch.zeros(2, 1)} for c in ("a", "b", "c")}
        b["c"]["v"] = torch.ones(2, 1)
        allocation = allocate(b)
        assert allocation.warnings[0] == "B is all zero and has no direction for 2 clients (a, b) in 1 module (v)"
        assert allocation.num_experts == 2  # a and b agree everywhere; c is 1/2 away

    def test_untrained_clients_share_one_expert(self) -> None:
        allocation = allocate({c: {"q": torch.zeros(2, 1)} for c in "abcd"})
        assert allocation.num_experts == 1

    def test_linkages_differ_where_they_should(self) -> None:
        # A chain 0, 40, 80, 120 degrees and a pair at 200, 215: single linkage follows the chain.
        b = at_angles(a=0, b=40, c=80, d=120, e=200, f=215)
        single = allocate(b, linkage="single", max_experts=2)
        assert single.assignment == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1, "f": 1}
        complete = allocate(b, linkage="complete", max_experts=2)
        assert complete.distances.equal(single.distances)
        assert complete.silhouettes.keys() == {2}

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"max_experts": 1}, "max_experts must be at least 2, received 1"),
            ({"min_silhouette": 1.5}, r"min_silhouette must be in \[-1, 1\], received 1.5"),
            ({"min_silhouette": float("nan")}, r"min_silhouette must be in \[-1, 1\], received nan"),
        ],
    )
    def test_refuses_parameters_out_of_range(self, kwargs: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            allocate(at_angles(a=0, b=60, c=90), **kwargs)  # type: ignore[arg-type]


class TestPlace:
    def test_own_members_are_placed_at_home(self) -> None:
        b = planted([4, 2, 5], spread=0.8)
        allocation = allocate(b)
        known = centroids(b, allocation.assignment)
        for client in b:
            placement = place(b[client], known)
            assert placement.expert == allocation.assignment[client]
            assert not placement.unlike

    def test_distance_is_one_minus_the_mean_inner_product(self) -> None:
        b = planted([3, 4], spread=1.0)
        newcomer = planted([1], spread=1.0, seed=9)["c00"]
        newcomer["m2"] = torch.zeros(16, 4)
        b["c00"]["m2"] = torch.zeros(16, 4)
        allocation = allocate(b, max_experts=2, min_silhouette=-1)
        placement = place(newcomer, centroids(b, allocation.assignment))
        everyone = plain({**b, "new": newcomer})
        for expert in range(2):
            # The mean of 1 - u . u_j over the members is 1 - u . (mean of u_j): the loop takes the left side.
            members = allocation.members(expert)
            expected = sum(equations.distance(everyone["new"], everyone[j]) for j in members) / len(members)
            assert placement.distances[expert] == pytest.approx(expected, abs=1e-12)
        first, second = sorted(placement.distances)
        assert placement.margin == pytest.approx(second - first)
        assert placement.expert == placement.distances.index(first)

    def test_unlike_is_measured_by_the_members_own_leave_one_out_distances(self) -> None:
        # Cluster 0: angles 0 and 60, each .5 from the rest. Cluster 1: 180 and 182.
        b = at_angles(a=0, b=60, c=180, d=182)
        allocation = allocate(b)
        assert allocation.assignment == {"a": 0, "b": 0, "c": 1, "d": 1}
        known = centroids(b, allocation.assignment)
        assert known.reach == pytest.approx((0.5, 1 - math.cos(math.radians(2))), abs=1e-6)
        # At 30 degrees: 1 - cos 30 = .134 from both members: like them.
        assert not place(at_angles(x=30)["x"], known).unlike
        # At 120: 1 - cos 60 = .5 from b, 1.5 from a: mean 1; from cluster 1 about .52. Nearest is 1, reach .0006.
        far = place(at_angles(x=120)["x"], known)
        assert far.expert == 1
        assert far.unlike

    def test_a_singleton_borrows_the_largest_reach_of_the_others(self) -> None:
        b = at_angles(a=0, b=60, c=180)
        allocation = allocate(b)
        known = centroids(b, allocation.assignment)
        assert known.reach[0] == pytest.approx(0.5, abs=1e-6)
        assert math.isnan(known.reach[1])
        near = place(at_angles(x=150)["x"], known)  # 1 - cos 30 = .134 from c
        assert (near.expert, near.unlike) == (1, False)
        far = place(at_angles(x=250)["x"], known)  # 1 - cos 70 = .66 from c; 1.34 and 1.98 from the others
        assert (far.expert, far.unlike) == (1, True)

    def test_with_one_cluster_there_is_no_choice_and_no_margin(self) -> None:
        b = at_angles(a=0)
        known = centroids(b, allocate(b).assignment)
        placement = place(at_angles(x=180)["x"], known)
        assert placement.expert == 0
        assert placement.margin == math.inf
        assert not placement.unlike  # one client says nothing about how far clients lie apart
        assert placement.distances == pytest.approx((2.0,))

    def test_a_newcomer_like_identical_members_is_not_unlike(self) -> None:
        # Rounding alone must not put it farther than members whose own distances count as 0.
        g = torch.Generator().manual_seed(0)
        base = torch.randn(64, 8, generator=g)
        b = {f"c{i}": {"q": base * (1 + 1e-7 * torch.randn(64, 8, generator=g))} for i in range(4)}
        known = centroids(b, allocate(b).assignment)
        assert known.reach == (0.0,)
        newcomer = {"q": base * (1 + 1e-4 * torch.randn(64, 8, generator=g))}
        placement = place(newcomer, known)
        assert (placement.distances, placement.unlike) == ((0.0,), False)
        assert place({"q": base.flip(0)}, known).unlike

    def test_zero_modules_agree_with_the_share_of_zero_members(self) -> None:
        v = torch.ones(2, 1)
        b = {
            "a": {"q": torch.zeros(2, 1), "v": v},
            "b": {"q": torch.ones(2, 1), "v": v},
        }
        known = centroids(b, allocate(b).assignment)
        # q: 0 to a, 1 to b, mean 1/2; v: 0. Over two modules: 1/4.
        assert place({"q": torch.zeros(2, 1), "v": v}, known).distances == pytest.approx((0.25,))

    def test_refuses_other_modules_shapes_and_values(self) -> None:
        b = at_angles(a=0, b=60, c=180)
        known = centroids(b, allocate(b).assignment)
        with pytest.raises(ValueError, match=r"modules of the run, received \['v'\], expected \['q'\]"):
            place({"v": torch.ones(2, 1)}, known)
        with pytest.raises(ValueError, match="B has 3 values, the run's clusters have 2"):
            place({"q": torch.ones(3, 1)}, known)
        with pytest.raises(ValueError, match="NaN or infinite"):
            place({"q": torch.tensor([[1.0], [float("nan")]])}, known)

    def test_centroids_are_frozen(self) -> None:
        b = at_angles(a=0, b=60, c=180)
        known = centroids(b, allocate(b).assignment)
        with pytest.raises(dataclasses.FrozenInstanceError):
            known.reach = ()  # type: ignore[misc]


class TestVariants:
    def test_a_fixed_number_is_cut_whatever_the_silhouettes_say(self) -> None:
        b = planted([3, 3, 3], spread=0.3)
        free = allocate(b)
        assert free.num_experts == 3
        for m in range(1, 10):
            fixed = allocate(b, num_experts=m, min_silhouette=1)
            assert fixed.num_experts == m
            assert fixed.silhouettes == free.silhouettes
        assert allocate(b, num_experts=3).assignment == free.assignment
        for bad in (0, 10):
            with pytest.raises(ValueError, match=rf"num_experts must be in 1 \.\. 9, .* received {bad}"):
                allocate(b, num_experts=bad)

    def test_ties_that_leave_no_such_number_are_refused(self) -> None:
        equal = {f"c{i}": {"q": torch.eye(4)[:, i : i + 1]} for i in range(4)}
        with pytest.raises(ValueError, match="ties among the clients leave no grouping into 2"):
            allocate(equal, num_experts=2)

    def test_spectral_clustering_finds_planted_groups(self) -> None:
        b = planted([4, 2, 5, 3], spread=0.5)
        spectral, tree = allocate(b, clustering="spectral"), allocate(b)
        assert spectral.assignment == tree.assignment
        assert allocate(b, clustering="spectral").silhouettes == spectral.silhouettes

    def test_distances_of_products_are_those_of_the_products_formed(self) -> None:
        g = torch.Generator().manual_seed(3)
        b, a, formed = {}, {}, {}
        for client in ("x", "y", "z"):
            b[client] = {m: torch.randn(5, 2, generator=g) for m in ("l.q", "l.v")}
            a[client] = {m: torch.randn(2, 7, generator=g) for m in ("l.q", "l.v")}
            if client == "z":
                b[client]["l.v"] = torch.zeros(5, 2)
            formed[client] = {m: b[client][m].double() @ a[client][m].double() for m in ("l.q", "l.v")}
        clients, d = product_distances(b, a)
        expected_clients, expected = distances(formed)
        assert clients == expected_clients
        assert torch.allclose(d, expected, atol=1e-9)

    def test_products_of_unequal_ranks_are_compared_by_the_directions_that_both_have(self) -> None:
        # x has rank 1, padded to 2. Its only column is y's first, so they are 0 apart, although y's whole product,
        # [[1, 5], [0, 0]], is only 1 / sqrt 26 like x's; z's first column is at a right angle to x's.
        one, two = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.eye(2)
        b = {"x": one, "y": torch.tensor([[1.0, 5.0], [0.0, 0.0]]), "z": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
        a = {"x": one, "y": two, "z": two}
        _, d = product_distances({c: {"q": t} for c, t in b.items()}, {c: {"q": t} for c, t in a.items()})
        assert d[0].tolist() == [0, 0, 1]
        assert float(d[1, 2]) == pytest.approx(1 - 5 / (26 * 2) ** 0.5)

    def test_other_distances_decide_when_they_are_given(self) -> None:
        b = planted([3, 3], spread=0.2)
        clients = sorted(b)
        other = torch.ones(6, 6, dtype=torch.float64).fill_diagonal_(0)
        for i, j in ((0, 5), (1, 4), (2, 3)):
            other[i, j] = other[j, i] = 0.1
        allocation = allocate(b, d=other)
        pairs = {frozenset(allocation.members(e)) for e in range(allocation.num_experts)}
        assert pairs == {frozenset({clients[i], clients[j]}) for i, j in ((0, 5), (1, 4), (2, 3))}
        assert torch.equal(allocation.distances, other)

    def test_an_assignment_from_elsewhere_is_numbered_like_any_other(self) -> None:
        b = planted([2, 2], spread=0.2)
        one, two, three, four = sorted(b)
        allocation = assign(b, {one: 7, two: 3, three: 7, four: 9, "unknown": 1})
        assert allocation.assignment == {one: 0, two: 1, three: 0, four: 2}
        assert allocation.silhouettes == {} and torch.equal(allocation.distances, distances(b)[1])
        assert len(allocation.warnings) == 2  # two clients alone
        with pytest.raises(ValueError, match="labels are missing for clients"):
            assign(b, {one: 0})


class TestJoined:
    """Clusters of fewer clients than are needed."""

    def test_the_smallest_joins_the_nearest_until_none_is_too_small(self) -> None:
        # Unit vectors: x is alone, nearer to the two at 40 degrees than to the three at 90.
        b = at_angles(a=90, b=91, c=92, d=40, e=41, x=0)
        before = assign(b, {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "x": 2})
        after = joined(before, 3)
        assert after.num_experts == 2 and after.assignment == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "x": 1}
        assert after.warnings == ("x was joined with d, e: a cluster needs 3 clients",)
        assert joined(after, 3) is after

    def test_experts_are_numbered_anew_by_their_smallest_client(self) -> None:
        after = joined(assign(at_angles(a=0, b=50, c=51, d=1, e=52), {"a": 0, "b": 1, "c": 1, "d": 0, "e": 1}), 3)
        assert after.num_experts == 1 and set(after.assignment.values()) == {0}

    def test_who_are_too_few_altogether_are_one_cluster(self) -> None:
        after = joined(assign(at_angles(a=0, b=90), {"a": 0, "b": 1}), 3)
        assert after.num_experts == 1 and after.warnings == ("a was joined with b: a cluster needs 3 clients",)

    def test_without_distances_the_largest_takes_them(self) -> None:
        before = assign(
            at_angles(a=90, b=91, c=92, d=93, e=0, f=1, g=2, x=0), dict(zip("abcdefgx", "00001112", strict=True))
        )
        after = joined(dataclasses.replace(before, distances=None), 3)
        assert after.assignment["x"] == after.assignment["a"] and joined(before, 3).assignment["x"] == 1
