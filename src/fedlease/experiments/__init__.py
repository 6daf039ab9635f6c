"""Several methods and seeds on the same rows and budget, and what can be concluded from their differences.

No page and no printing; a cell is an ordinary run.
"""
