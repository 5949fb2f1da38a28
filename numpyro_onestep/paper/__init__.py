"""The objectives of arXiv 2512.05251 as they are printed there, on controlled stochastic paths.

In: a `Problem` and a `ControlNetwork`. Out: losses for training it, path weights and its deterministic flow, for
comparison: `OneStep` does not use this folder. Open `losses.py` first.
"""
