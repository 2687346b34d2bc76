"""Engines: the ways to compute a sequence, and the choice among them.

The reference is the step loop in plain torch; every other engine returns its outputs, last states and gradients.
"""
