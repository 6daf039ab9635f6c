"""One run from settings to its folder: the start-up that every command shares, the method, check and estimate.

No wire, no page and no command line.
"""
