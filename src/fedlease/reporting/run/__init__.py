"""Renders the page of one run from its folder.

Computing scores does not belong here.
"""
