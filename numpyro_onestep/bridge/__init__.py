"""From the base to the target in several evaluations, by Hamiltonian steps that keep volume.

In: a trained flow. Out: draws of n evaluations with exact weights (the ladder), or clouds of particles with log Z from
both sides (the bridge). Open `hamiltonian.py` first.
"""
