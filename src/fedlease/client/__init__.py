"""One client's work: handle a request by training or scoring on the base model in memory, and reply.

Nothing here knows the server, the run folder or the network.
"""
