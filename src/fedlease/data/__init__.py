"""Rows of every client: read, checked, dealt.

No tokenizer, no model and no method.
"""
