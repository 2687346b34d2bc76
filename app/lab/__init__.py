"""Studies: fair comparisons of cells, run by ``sweep`` and described by ``report``."""
