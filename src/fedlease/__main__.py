"""``python -m fedlease``."""

from fedlease.cli import main

main()
