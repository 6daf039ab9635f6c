"""Models of every client of a run behind one HTTP service."""
