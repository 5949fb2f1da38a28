"""Where draws start: the base p0, found from the target and sampled exactly.

In: a target. Out: a `Base`, a Gaussian or a mixture of them, with conditional scales and Student-t tails where they
help, and the map that whitens the target; `Problem` joins both. Open `search.py` first.
"""
