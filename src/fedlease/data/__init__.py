"""Reads, checks and deals the rows of every client. No tokenizer, model or method belongs here."""
