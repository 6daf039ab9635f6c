"""Privacy and compression of what leaves a client: functions of tensors, models and updates.

Nothing here sends anything; the transports apply these functions.
"""
