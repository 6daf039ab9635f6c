"""Every test of the command line runs it through one fixture."""

from cli.shell import shell

__all__ = ["shell"]
