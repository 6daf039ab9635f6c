"""Laws that hold for every case of a table: one test each, which names all cases that break it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["holds_for"]


def holds_for(cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Makes a test of a law: a function of one case, or of its parts where a case is a tuple."""
    every = [case if isinstance(case, tuple) else (case,) for case in cases]
    assert every

    def one_test(law: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for case in every:
                torch.default_generator.manual_seed(0)  # as before every test
                try:
                    law(*case)
                except Exception as error:
                    error.add_note(f"broken by {case}")
                    broken.append(error)
            if broken:
                raise ExceptionGroup(f"{law.__name__} is broken by {len(broken)} of {len(every)} cases", broken)

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return one_test
