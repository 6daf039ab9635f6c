"""The server: settings from federation.yaml, changed by the run configuration."""

from pathlib import Path

from fedlease.flower import server_app

app = server_app(folder=Path(__file__).parents[1])
