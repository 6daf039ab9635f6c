"""Presents runs to people: terminal, trackers, tables, pages and model cards.

Training and scoring do not belong here, and no page may need a network.
"""
