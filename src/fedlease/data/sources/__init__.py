"""Contains one module per source of a federation, each with a function ``load``. File formats belong to ``reading``."""
