"""The page of one run, from its folder.

No score is computed.
"""
