"""What users take away from a finished run.

In: a `OneStepSampler`, or an `MCMC` around `OneStep`, after `run`. Out: its samples by chain, ArviZ data, model
comparisons, files, and the flow as a distribution or reparametrisation. Open `inference_data.py` first.
"""
