"""The site: every message has an entry, every public name a place, every page is reached, every block is Python."""

import ast
import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import numpyro_onestep

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md"))
GAP = "…"  # where a value stands


def sentences(module: Path) -> Iterator[str]:
    """What a module may say to a user: its sentences but for docstrings and errors, with gaps where values stand."""
    tree = ast.parse(module.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            skipped.add(id(node.body[0].value))
        if isinstance(node, ast.Raise):
            skipped |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):  # an f-string comes before its parts
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node)}
            text = "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.replace("{}", GAP)
        else:
            continue
        begins = text.startswith("note:") or (text[:1].isupper() and text.endswith(GAP))
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= 4 and (text.endswith(".") or begins):
            yield text


@cache
def said_by_the_package() -> list[str]:
    modules = sorted((ROOT / "numpyro_onestep").rglob("*.py"))
    labels = {"plots", "plots.py"}  # of axes
    return [text for module in modules if not labels & set(module.parts) for text in sentences(module)]


def matches(template: str, quote: str) -> bool:
    pattern = ".{0,200}?".join(map(re.escape, template.split(GAP)))
    return re.search(pattern, quote) is not None


QUOTES = re.findall(r"^> (.*)$", (DOCS / "diagnostics.md").read_text(), re.M)


def test_every_message_has_an_entry():
    templates = said_by_the_package()
    assert len(templates) > 40
    missing = [text for text in templates if not any(matches(text, quote) for quote in QUOTES)]
    assert not missing, "docs/diagnostics.md needs a line '> message' with what it means for each of these"


def test_every_entry_is_a_message():
    stale = [quote for quote in QUOTES if not any(matches(text, quote) for text in said_by_the_package())]
    assert not stale, "no longer said by the package"


def test_every_field_of_the_evidence_is_explained():
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "diagnostics.md").read_text(), re.M)
    assert tuple(rows) == numpyro_onestep.Evidence._fields


def test_every_public_name_is_on_the_page_and_has_a_docstring():
    named = re.findall(r"^::: numpyro_onestep\.(\w+)$", (DOCS / "api.md").read_text(), re.M)
    assert sorted(named) == sorted(numpyro_onestep.__all__)
    for name in named:
        assert len(getattr(numpyro_onestep, name).__doc__ or "") > 40, name


def test_every_page_is_in_the_navigation():
    # a build is strict about links, anchors and pages left out; it needs the `docs` extra
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_block_of_code_is_python_with_names_that_exist(page):
    for block in blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "numpyro_onestep":
                assert {alias.name for alias in node.names} <= set(numpyro_onestep.__all__), page


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http", "../../actions")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pictures_are_small():
    for pattern in ("tutorial_*.png", "gallery_*.png", "eight_schools.png"):
        for picture in (DOCS / "figures").glob(pattern):
            assert picture.stat().st_size <= 40_000, picture.name


def test_the_way_of_a_draw_is_drawn_as_it_is_written():
    source, drawn = ((DOCS / "figures" / f"way_of_a_draw.{end}").read_text() for end in ("mmd", "svg"))
    words = {word for text in re.findall(r'"(.+?)"', source) for word in re.split(r"<br>| ", text)}
    assert {word for word in words if word not in drawn} == set()


def test_outputs_are_written_below_their_blocks_and_compared_without_numbers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import tutorials

    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1.5\nprint('x', x)\n```\n\ntext\n\n```python\ny = x\n```\n")
    first = tutorials.refreshed(page, draw=False)
    assert "```\n\n```text\nx 1.5\n```\n\ntext" in first
    page.write_text(first.replace("x = 1.5", "x = -2e-3"))
    again = tutorials.refreshed(page, draw=False)
    assert "x -0.002" in again
    assert tutorials.without_numbers(again)[-6:] == tutorials.without_numbers(first)[-6:]
    assert tutorials.without_numbers("reliable yes") != tutorials.without_numbers("reliable no")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((DOCS / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_prints_what_its_page_shows(page):
    subprocess.run([sys.executable, ROOT / "examples" / "tutorials.py", page, "--check"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.stem)
def test_the_first_example_runs_and_prints_what_is_said(page):
    script = blocks(page)[0].replace("eight_schools))", "eight_schools), progress_bar=False)")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "log evidence: -31.3" in result.stdout
    assert "reliable: yes" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in numpyro_onestep.__all__ if ">>>" in getattr(numpyro_onestep, n).__doc__])
def test_examples_in_docstrings_run(name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(numpyro_onestep, name), name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in found:
        assert runner.run(example).failed == 0


@pytest.mark.slow
def test_a_picture_of_the_gallery(tmp_path):
    command = [sys.executable, ROOT / "examples" / "gallery" / "figures.py", "mixture", "--smoke", "--folder", tmp_path]
    subprocess.run(command, check=True)
    assert (tmp_path / "gallery_mixture.png").read_bytes().startswith(b"\x89PNG")
