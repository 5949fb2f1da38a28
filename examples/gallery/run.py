"""Twelve models in the manner of NumPyro's examples, each with NUTS and with OneStep: only the kernel differs.

    python examples/gallery/run.py                        # all models, seed 0: about half an hour on two CPU cores
    python examples/gallery/run.py funnel "hidden markov" --seed 1
    python examples/gallery/run.py --json rows.jsonl      # resumable: keeps the rows that are there
    python examples/gallery/run.py funnel --smoke         # seconds, for tests: numbers are not meaningful

Columns: dimension; largest error of a mean in reference standard deviations; largest error of a standard deviation in
per cent; effective share of the proposals behind log Z in per cent; evaluations that each of them takes, 1 where there
is no bridge; Pareto k; log Z and its error; smallest effective sample size of 4 x 1000 draws; seconds of NUTS and of
OneStep for warmup and 4 x 1000 draws, one after the other, compilation included; `reliable`; and the verdict. It is
"agrees" where no mean is off by more than .15 sd, no sd by more than 15 %, and log Z, where it is known, by no more
than three of its errors or .05; else "flagged" if the run is not reliable, else "WRONG". The reference is a longer run
of NUTS, or exact draws where there are any. Below a line stands what is wrong with NUTS (divergences, an R-hat above
1.05, fewer than 1000 effective draws), and what OneStep warns of.
"""

from models import GALLERY
from table import run

if __name__ == "__main__":
    run(GALLERY, __doc__)
