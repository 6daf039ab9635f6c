"""One root seed; a generator of its own for every use."""

import torch

from fedlease.core.seeds import derive, generator, seed_torch


def test_known_values_do_not_change() -> None:
    # The first 8 bytes of the SHA-256 of "0", and of "0", "str:batches", "str:c1", "int:3" with unit separators
    # between them, big-endian, halved: as sha256sum prints them.
    assert derive(0) == 0x5FECEB66FFC86F38 >> 1
    assert derive(0, "batches", "c1", 3) == 0x5ED2356D2771E3B9 >> 1


def test_every_part_counts_and_so_does_its_type() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "b"),
        derive(0, "a", 1),
        derive(0, "a", "1"),
        derive(0, "a", 1, 0),
        derive(0, 1, "a"),
        derive(0, "a1"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_fits_every_seed_field() -> None:
    assert all(0 <= derive(0, i) < 2**63 for i in range(200))


def test_generators_repeat_and_do_not_touch_the_global_one() -> None:
    before = torch.get_rng_state()
    one = torch.rand(5, generator=generator(7, "x"))
    assert torch.equal(one, torch.rand(5, generator=generator(7, "x")))
    assert not torch.equal(one, torch.rand(5, generator=generator(7, "y")))
    assert torch.equal(before, torch.get_rng_state())


def test_torchs_own_generator_draws_what_it_draws_after_manual_seed() -> None:
    seed = derive(3, "dropout")
    torch.manual_seed(seed)
    expected = torch.rand(5)
    seed_torch(seed, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
