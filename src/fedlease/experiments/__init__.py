"""Several methods and seeds on the same rows and budget, and what can be said of their differences."""
