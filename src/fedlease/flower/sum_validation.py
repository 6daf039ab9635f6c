"""Checks the form of secure sums' messages on a node; the client's half checks them against earlier messages."""

from fedlease.client.sum_messages import KEY, SEALED, SIGNATURE, AskKeys, AskSeeds, AskShares, Masking, SumAsk
from fedlease.flower.bounds import WHOLE, Rule, broken, count, hexadecimal, line, named, number

__all__ = ["MOST_MEMBERS", "ask_fault", "masking_fault"]

MOST_MEMBERS = 10_000
"""Most clients of a secure sum."""

LINE = line()
SESSION, SHARED, PUBLIC = hexadecimal(16), hexadecimal(SEALED), hexadecimal(KEY)
MEMBERS = Rule(
    f"1 to {MOST_MEMBERS} names", lambda names: 0 < len(names) <= MOST_MEMBERS and all(map(LINE.holds, names))
)
SIGNED = line(2 * SIGNATURE)
PAIR = Rule(
    f"two keys of {PUBLIC.words}, signed or not",
    lambda keys: PUBLIC.holds(keys.mask) and PUBLIC.holds(keys.seal) and SIGNED.holds(keys.signature),
)


def ask_fault(ask: SumAsk) -> str:
    """Why a message of a sum is not one that a server sends."""
    fault = broken(ask, {"method": LINE, "step": WHOLE, "session": SESSION})
    match ask:
        case AskKeys():
            numbers = {"threshold": count(1, MOST_MEMBERS), "resolution": number(1e-12, 1), "width": count(1, 8)}
            return fault or broken(ask, {"members": MEMBERS, **numbers})
        case AskShares():
            return fault or broken(ask, {"keys": named(PAIR, MOST_MEMBERS)})
        case AskSeeds():
            return fault or broken(ask, {"survivors": MEMBERS})


def masking_fault(masking: Masking) -> str:
    """Why a masking in a request is not one that a server sends."""
    return broken(masking, {"session": SESSION, "sealed": named(SHARED, MOST_MEMBERS)})
