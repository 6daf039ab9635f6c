"""``python -m fedlease``."""

from fedlease.cli.main import main

main()
