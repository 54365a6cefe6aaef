"""The documents: links lead somewhere, tests that they name exist, no page is forgotten."""

import ast
import re
from pathlib import Path

import pytest

from gpstoken_jax.__main__ import PROGRAMS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text()
    for name in re.findall(
        r"`((?:gpstoken_jax|tests|kernels|configs|scripts|examples)/[\w/.]+)`", text
    ):
        assert (ROOT / name.rstrip("/")).exists(), f"{page.name} names {name}"
    for file, test in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", text):
        names = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
                 if isinstance(node, ast.FunctionDef)}  # fmt: skip
        assert test in names, f"{page.name} names {file}::{test}"


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [
        page.name for page in PAGES[2:] if page.name != "index.md" and page.name not in index
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.name)
def test_every_page_says_first_what_for(page):
    title, begin = page.read_text().split("\n\n")[:2]
    assert title.startswith("# ")
    assert page.name == "index.md" or begin.startswith(("To ", "For "))


def test_no_page_has_marks_of_a_merge():
    marks = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
    assert not [page.name for page in PAGES if marks.search(page.read_text())]


def test_the_readme_names_every_program():
    named = PROGRAMS.keys() - {"train", "eval"}
    assert not [name for name in named if f"`{name}`" not in PAGES[0].read_text()]
