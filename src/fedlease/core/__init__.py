"""The algorithm as pure functions: tensors and frozen dataclasses in, the same out.

Nothing here opens a file, reads a setting, loads a model or prints.
"""
