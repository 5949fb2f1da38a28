"""Whether to believe a result.

In: fresh proposals and the trained flows. Out: `Evidence` with its error and its warnings, and the audit, an
independent search for posterior mass that the flow does not reach. Open `estimate.py` first.
"""
