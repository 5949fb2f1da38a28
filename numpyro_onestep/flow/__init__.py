"""The injective map from the base to the target, and its exact volumes.

In: base draws and the parameters of a `StepNetwork`. Out: where they end, with log-determinants, scores, inverses, and
the log weights that follow. Every function is of one point. Open `steps.py` first.
"""
