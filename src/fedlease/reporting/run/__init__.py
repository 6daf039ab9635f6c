"""The page of one run.

It reads the run folder and computes no score.
"""
