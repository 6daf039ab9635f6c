"""The run folder on disk: written and read by the same files, with every limit on what is read.

Nothing is trained or drawn here.
"""
