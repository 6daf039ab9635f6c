"""One file per method: frozen parameters and pure functions over a frozen state.

No file, no model, no row, no printing.
"""
