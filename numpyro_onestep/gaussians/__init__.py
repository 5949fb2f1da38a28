"""Gaussians and mixtures of them, and their fit to a density.

In: a `LogDensity` and where to start. Out: a `Mixture`, with covariances of D² numbers or, above `DENSE_DIM`,
diagonal ones that stretch a few directions. Open `fit.py` first.
"""
