"""Settings: typed sections, layers, faults and the presets.

Nothing here loads torch, data or models.
"""
