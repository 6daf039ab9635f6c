"""Serves the models of all clients of a run over HTTP.

Training and writing models do not belong here.
"""
