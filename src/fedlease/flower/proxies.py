"""Warns of proxies in a node's environment, which Flower's connections use."""

from collections.abc import Mapping

__all__ = ["proxies_notice"]

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def proxies_notice(environment: Mapping[str, str]) -> str:
    """A line that names the proxy variables that are set, not their values, which may contain passwords; or empty."""
    named = sorted(name for name in environment if name.lower() in PROXIES and environment[name])
    if not named:
        return ""
    return (
        f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} set: this node reaches its server, and its own "
        "SuperNode, through that proxy unless NO_PROXY names them, as in NO_PROXY=127.0.0.1,localhost,SERVER"
    )
