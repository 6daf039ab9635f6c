"""The table of methods."""

from fedlease.methods.registry import METHODS


def test_every_method_of_the_table_states_its_source_or_purpose() -> None:
    import importlib

    for where in METHODS.values():
        module = importlib.import_module(where.partition(":")[0])
        assert module.__doc__ and len(module.__doc__.strip().splitlines()) >= 3
