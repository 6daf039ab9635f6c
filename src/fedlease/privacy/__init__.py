"""What protects or shrinks what leaves a client, as functions of tensors, models and updates.

No transport and no client: whoever sends applies it.
"""
