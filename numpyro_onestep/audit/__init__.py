"""An independent search for posterior mass that the flow does not reach.

In: the target and a trained flow. Out: an `Audit`, with the mass that is missed and posterior draws made without the
flow; and what of it to tell, in words. Open `coverage.py` first.
"""
