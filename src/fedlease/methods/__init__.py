"""One file per method: frozen parameters and pure functions over a frozen state.

Nothing here opens a file, runs a model, sees a row of data or prints.
"""
