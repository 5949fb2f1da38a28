"""Draws of a trained flow, their weights, and what makes them exact.

In: a `Flow` and a key. Out: proposals with log weights, what these say (effective sample size, Pareto k, log Z), chains
of corrected draws, and draws by tempering that owe nothing to the flow. Open `proposal.py` first.
"""
