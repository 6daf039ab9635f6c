"""The algorithm, pure: tensors and frozen dataclasses in, the same out."""
