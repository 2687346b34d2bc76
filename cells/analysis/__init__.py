"""Analysis of a cell: recorded states, gradients through time, gains, operations.

It asks the cell by the methods of :mod:`cells.introspection`, and by nothing else.
"""
