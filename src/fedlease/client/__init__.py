"""One client's work: take a request, train on the resident model, score, answer.

No server, no file of a run, no wire: those stand above.
"""
