"""The models of every client of a run behind one HTTP service.

Models are opened by ``use``; nothing is trained or written.
"""
