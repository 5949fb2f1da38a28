"""Draws of a trained flow, their weights, and what makes them exact.

In: a `Flow` and a key. Out: proposals with log weights, what these say (effective sample size, Pareto k, log Z), chains
of corrected draws, one iteration at a time or all at once. Open `proposal.py` first.
"""
