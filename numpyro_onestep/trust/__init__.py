"""Whether to believe a result.

In: fresh proposals, bridges and the audit. Out: `Evidence` with its error and its warnings. Open `estimate.py` first.
"""
