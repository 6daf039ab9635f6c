"""Output of a run for people: terminal, trackers, tables, pages and model cards.

Nothing is trained or scored here, and no page needs a network.
"""
