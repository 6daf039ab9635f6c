"""Writes and reads run folders, with limits on everything that is read.

Training and drawing do not belong here.
"""
