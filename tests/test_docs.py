import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \| `(.+?)::(.+?)` \|$", (TESTS.parent / "docs/compatibility.md").read_text(), re.M
)


def test_every_row_names_a_test():
    assert len(ROWS) >= 40
    for feature, _, _, file, name in ROWS:
        functions = {node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, feature


def test_every_row_is_yes_or_says_why_not():
    for feature, _, one_step, _, _ in ROWS:
        assert not re.fullmatch(r"no\W*", one_step), feature
