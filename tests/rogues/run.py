"""Print the rogues' gallery: solved, flagged, or confidently wrong.

    python tests/rogues/run.py                   # all
    python tests/rogues/run.py "ring" --seed 1   # one, by name

Wrong is log Z off by more than max(.05, 3 se), a mean off by more than .15 sd, or a mode's weight off by more than a
quarter; confidently so if `evidence.reliable` is True. Flagged is `reliable` False, whatever the numbers.
"""

import argparse

from gallery import ROGUES
from verdict import judge


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rogues", nargs="*", default=list(ROGUES), help="names; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("errors as a share of what is allowed")
    print(f"{'rogue':28}{'log Z':>8}{'mean':>8}{'weight':>8}{'seconds':>9}  verdict", flush=True)
    words = []
    for name in options.rogues:
        v = judge(ROGUES[name](), options.seed)
        words.append(v.word)
        print(f"{name:28}{v.log_z:8.2f}{v.mean:8.2f}{v.weight:8.2f}{v.seconds:9.0f}  {v.word}", flush=True)
        for warning in v.warnings:
            if not warning.startswith("note:"):
                print(f"{'':28}  {warning}")
    print(", ".join(f"{words.count(word)} {word}" for word in ("solved", "flagged", "CONFIDENTLY WRONG")))


if __name__ == "__main__":
    main()
