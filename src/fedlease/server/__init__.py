"""The rounds: participation, requests to clients, checks of their updates, and events for listeners.

Nothing here prints, draws a page or opens a network connection.
"""
