"""The page of a comparison, from ``compare.json``.

Nothing is run, and no statistic is computed.
"""
