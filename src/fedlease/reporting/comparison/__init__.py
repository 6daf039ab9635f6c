"""The page of a comparison.

It reads what the cells left and runs nothing.
"""
