"""Files and their rows: formats, columns, values, labels, prompts.

Which client has which rows is decided above.
"""
