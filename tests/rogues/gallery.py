"""The rogues' gallery: small targets with known answers, each chosen because samplers go wrong on it unseen."""

from collections.abc import Callable

import densities
import posteriors
from rogue import Rogue

ROGUES: dict[str, Callable[[], Rogue]] = {
    "modes 5 sd apart": lambda: densities.apart(5.0),
    "modes 10 sd apart": lambda: densities.apart(10.0),
    "modes 20 sd apart": lambda: densities.apart(20.0),
    "modes 40 sd apart": lambda: densities.apart(40.0),
    "modes 20 sd apart, sd 1000": lambda: densities.apart(20.0, sd=1000.0),
    "modes 20 sd apart, sd .001": lambda: densities.apart(20.0, sd=0.001),
    "weights .95 and .05": lambda: densities.apart(10.0, 0.95),
    "weights .99 and .01": lambda: densities.apart(10.0, 0.99),
    "three scales": lambda: densities.gaussians([[0, 0, 0], [6, 0, 0], [0, 10, 0]], [0.4, 0.3, 0.3], [1.0, 0.3, 2.0]),
    "deceptive optimum": lambda: densities.gaussians([[0, 0, 0], [25, 0, 0]], [0.02, 0.98], [3.0, 1.0]),
    "ring": densities.ring,
    "banana chain": densities.banana_chain,
    "funnel": densities.funnel,
    "t, 1.5 degrees of freedom": lambda: densities.student(1.5),
    "t, 4 degrees of freedom": lambda: densities.student(4.0),
    "horseshoe": posteriors.horseshoe,
    "label switching, 2": lambda: posteriors.label_switching(2),
    "label switching, 3": lambda: posteriors.label_switching(3),
    "label switching, 4": lambda: posteriors.label_switching(4),
    "pile at zero": posteriors.pile_at_zero,
    "pile at both ends": posteriors.pile_at_both_ends,
    "near-improper": posteriors.near_improper,
    "unidentified regression": posteriors.unidentified_regression,
    "discontinuous": densities.discontinuous,
    "nan island": densities.nan_island,
    "product a·b": posteriors.product,
    "spike and slab": posteriors.spike_and_slab,
    "enumerated mixture": posteriors.enumerated,
    "two Cauchys": posteriors.two_cauchys,
}
