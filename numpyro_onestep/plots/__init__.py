"""Pictures of a finished run.

In: a `OneStepSampler`, an `MCMC` around `OneStep`, `Evidence`, or the table of `compare`. Out: matplotlib axes, in
the style that the user has set. Open `weights.py` first.
"""
