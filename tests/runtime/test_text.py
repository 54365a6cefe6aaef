"""No text from a file changes what is around it: on a terminal, in Markdown, in a spreadsheet."""

import contextlib
import csv
import html
import io
import logging
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gpstoken_jax.runtime.text import csv_text, markdown_text, printable_output, say, terminal_text

NASTY = list("\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\xad\u200b\u202e\u2028\u2066\ufeff\ud83d\udcff")
NASTY += list("\\`*_{}[]()<>#+-.!|&~=@$'\":;/^%") + list("\uff1d\uff0b\uff0d\uff20") + ["\x1b[31m"]
NASTY += ["<b>", "&lt;", "<!--", "![x](y)", "1. ", "- ", "# ", "---", "http://x.y/", "```", "    "]
PIECES = st.one_of(st.sampled_from(NASTY), st.characters(), st.text(max_size=3))
TEXTS = st.lists(PIECES, max_size=8).map("".join)
MANY = settings(max_examples=400, deadline=None)
RENDER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@MANY
@given(TEXTS)
def test_a_terminal_gets_one_printable_line(text):
    shown = terminal_text(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert all(unicodedata.bidirectional(c) not in BIDI for c in shown)
    shown.encode("utf-8")
    if not any(unicodedata.category(c)[0] in "CZ" and c != " " for c in text):
        assert shown == text


@MANY
@given(TEXTS)
def test_all_that_a_program_prints_and_logs_is_printable(text):
    """As names print in a line, in lines of their own, in warnings, errors and tracebacks."""
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    handler, logger = logging.StreamHandler(log), logging.getLogger("of a test")
    logger.addHandler(handler)
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with redirected[0], redirected[1], printable_output(handler):
        say(text)
        print(text, "and", text, flush=True)
        print(f"error: {text}", file=sys.stderr)
        logger.warning("skipped %s", text)
    logger.removeHandler(handler)
    assert out.getvalue().startswith(terminal_text(text) + "\n")
    assert log.getvalue() == f"skipped {terminal_text(text)}\n"
    for shown in (out.getvalue(), err.getvalue()):
        assert all(line == terminal_text(line) for line in shown.split("\n"))
        shown.encode("utf-8")


BLOCKS = {"inline", "paragraph", "bullet_list", "list_item"}
BLOCKS |= {"table", "thead", "tbody", "tr", "th", "td"}
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_what_becomes_of_an_escape_sequence():
    assert terminal_text("a\x1b[2Jb\n\u202ec\udcff") == "a\\x1b[2Jb\\x0a\\u202ec\\udcff"


@MANY
@given(TEXTS)
@example("a|b")
@example("    a")
@example("1. a")
@example("- [ ] a")
def test_markdown_shows_the_text_and_nothing_else(text):
    """In a list item, in a table's cell, and as a paragraph, as a CommonMark parser sees it."""
    escaped, shown = markdown_text(text), " ".join(terminal_text(text).split())
    pages = {
        "paragraph": (f"{escaped}\n", "p"),
        "list": (f"- {escaped}\n", "li"),
        "table": (f"| a | b |\n| --- | --- |\n| {escaped} | end |\n", "td"),
    }
    if not shown:
        return
    for page, inside in pages.values():
        tokens = RENDER.parse(page)
        kinds = {token.type for token in tokens}
        assert {kind.rpartition("_")[0] or kind for kind in kinds} <= BLOCKS
        contents = [token for token in tokens if token.type == "inline"]
        content = contents[2] if inside == "td" else contents[0]
        assert {child.type for child in content.children} <= {"text", "text_special"}
        rendered = "".join(html.unescape(child.content) for child in content.children)
        assert " ".join(rendered.split()) == " ".join(html.unescape(shown).split()) or (
            " ".join(rendered.split()) == shown
        )
        if inside == "td":
            assert contents[3].content == "end" and len(contents) == 4


FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@MANY
@given(st.lists(TEXTS, min_size=1, max_size=3))
@example(["=1+1"])
@example([" =cmd|' /C calc'!A0"])
@example(["-2"])
def test_no_cell_of_a_table_is_a_formula(texts):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([csv_text(text) for text in texts])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    for text, cell in zip(texts, row, strict=True):
        assert not cell.strip(" ").startswith(tuple(FORMULA)) and not cell.startswith(
            tuple(FORMULA)
        )
        assert cell.removeprefix("'") == terminal_text(text).removeprefix("'")


@pytest.mark.parametrize("name", ["photos/a.png", "a b (1).jpg", "été.png", "日本.png", "🦊"])
def test_ordinary_names_stay_as_they_are(name):
    assert terminal_text(name) == csv_text(name) == markdown_text(name) == name
