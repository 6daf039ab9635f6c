"""Reads files: formats, columns, values, labels and prompts. Rows are assigned to clients elsewhere."""
