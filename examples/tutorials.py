"""Run the Python blocks of Markdown pages in order, and write what they print and draw to where the pages show it.

    python examples/tutorials.py docs/tutorials/hierarchical.md     # refresh outputs and pictures
    python examples/tutorials.py docs/tutorials/*.md --check        # fail where they say something else than the page

A block of text right after a block of Python is its output, and a picture right after that its figure. A check compares
the outputs with numbers left out, since these differ a little from one processor to another.
"""

import argparse
import contextlib
import difflib
import io
import re
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from pictures import save

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n.*?^```\n)?(?P<figure>\n!\[[^\]]*\]\((?P<path>[^)]+\.png)\)\n)?",
    re.M | re.S,
)


def refreshed(page: Path, draw: bool) -> str:
    """The page with the outputs of its blocks, run one after the other; figures are saved if `draw`."""
    names: dict = {"__name__": "__main__"}

    def run(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], f"{page.name}, a block", "exec"), names)
        if bool(plt.get_fignums()) != bool(block["figure"]):
            raise SystemExit(f"{page}: a block that draws needs its picture right below it, and no other:\n{block[0]}")
        if draw and block["figure"]:
            save(plt.gcf(), page.parent / block["path"])
        plt.close("all")
        lines = [line.rstrip() for line in printed.getvalue().strip("\n").splitlines()]
        output = "".join(f"{line}\n" for line in lines)
        shown = f"\n```text\n{output}```\n" if output else ""
        return f"```python\n{block['code']}```\n{shown}{block['figure'] or ''}"

    return BLOCK.sub(run, page.read_text())


def without_numbers(text: str) -> list[str]:
    """The lines of a page with a sign for each number, and spaces and rules of any length alike."""
    text = re.sub(r"[-−+]?(\d+\.?\d*(e[-+]?\d+)?|\binf\b|\bnan\b)", "#", text)
    return [re.sub(r"[ \-]+", " ", line).strip() for line in text.splitlines()]


def main() -> None:
    """Refresh or check each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    for page in options.pages:
        start, before = time.perf_counter(), page.read_text()
        after = refreshed(page, draw=not options.check)
        print(f"{page.name}: {time.perf_counter() - start:.0f} s")
        if not options.check:
            page.write_text(after)
            continue
        changed = list(
            difflib.unified_diff(without_numbers(before), without_numbers(after), "page", "now", lineterm="")
        )
        if changed:
            raise SystemExit("\n".join(changed))


if __name__ == "__main__":
    main()
