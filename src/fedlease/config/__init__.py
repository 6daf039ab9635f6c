"""Settings: typed sections, layers, faults and the presets.

No torch, no data and no model is loaded here.
"""
