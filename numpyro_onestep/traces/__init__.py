"""What a function does, read from its trace (a jaxpr).

In: a function as JAX sees it. Out: a digest that tells it from others, how much work it is, and its value with long
sums of single precision added up exactly. Open `sums.py` first.
"""
