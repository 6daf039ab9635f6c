"""The frozen base: where it comes from, what it is made of, whether it fits.

No rows and no adapter of a client.
"""
