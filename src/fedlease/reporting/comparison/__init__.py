"""Renders the page of a comparison from ``compare.json``.

Running methods and computing statistics do not belong here.
"""
