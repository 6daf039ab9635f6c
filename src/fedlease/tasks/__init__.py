"""One file per task: what is optimised, how it is scored, and what it is called.

No other folder asks which task it is.
"""
