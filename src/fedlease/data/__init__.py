"""Rows of every client: read, checked, dealt; no tokenizer, no model and no method."""
