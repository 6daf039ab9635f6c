"""One run from settings to its folder: the start-up that every command shares, the method, check and estimate.

Nothing here is about the network, pages or the command line.
"""
