"""Compares methods over several seeds on the same rows and budget.

Pages and printing do not belong here. A cell of a comparison is an ordinary run.
"""
