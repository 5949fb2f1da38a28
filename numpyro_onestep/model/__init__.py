"""A NumPyro model or a potential function as a log density on one flat unconstrained vector.

In: a model with its arguments. Out: a `ModelSetup`: the target log γ with its derivatives, the way back to constrained
sites, and what the model itself says about its evidence. Open `setup.py` first.
"""
