"""Members of groups and of time series, whitened given all else: necks in hundreds of dimensions become round.

In: a log density on flat vectors. Out: which of its coordinates are members, and new coordinates in which each is a
standard normal given the rest, as far as Laplace's approximation holds. Open `laplace.py` first.
"""
