"""One module per source of a federation, each with ``load``.

Formats are read by ``reading``.
"""
