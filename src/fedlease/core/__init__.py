"""The algorithm, pure: tensors and frozen dataclasses in, the same out.

No file, no settings, no model and no printing.
"""
