"""Uses of a finished run: load, predict, chat, export, onboard a newcomer, serve.

Nothing is federated here, and no test row is read except to measure what is exported.
"""
