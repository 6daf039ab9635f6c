"""Defines the learning tasks, one file per task: loss, scores and words for reports.

Code in other folders must not depend on which task it is.
"""
