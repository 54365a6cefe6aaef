"""Names of files: one for each name, in any file system, and never outside the directory."""

import itertools
import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpstoken_jax.runtime.file_names import file_names, folder_names

REPLACED = (".jpg", ".jpeg", ".png", ".webp")
# Ways in which file systems compare names.
FOLDS = {
    "exact": lambda name: name,
    "lower": str.lower,
    "upper": str.upper,
    "case-insensitive, NFC": lambda name: unicodedata.normalize("NFC", name).casefold(),
    "case-insensitive, NFD": lambda name: unicodedata.normalize("NFD", name).casefold(),
    "casefold, then NFC": lambda name: unicodedata.normalize("NFC", name.casefold()),
    "NFKC": lambda name: unicodedata.normalize("NFKC", name).casefold(),
    "NFKD": lambda name: unicodedata.normalize("NFKD", name.casefold()),
    "invisible characters ignored": lambda name: "".join(
        c for c in unicodedata.normalize("NFD", name).casefold() if unicodedata.category(c) != "Cf"
    ),
    "Windows drops ends": lambda name: "/".join(
        part.rstrip(". ").lower() for part in name.split("/")
    ),
}
RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
TRICKY = (
    "a", "A", "b", "cat", "cat.", "cat ", "Cat", "CAT", " cat", "..", ".", "", " ",
    "con", "CON.jpg",
    "con .png", "nul", "com¹", "a.png", "a.jpg", "A.JPG", "a.png.png", "a.jpg.png", "é", "e\u0301",
    "ﬁ", "fi", "ß", "ss", "SS", "ẞ", "İ", "i\u0307", "ı", "K", "\u212a", "Å", "\u212b", "x\u200d",
    "x", "\n", "a\nb", "a\\b", "a:b", "a_b", "C:", "c:x", "~", "a~0123456789abcdef", "\u202egnp.a",
    "a?", "a*", "[a]", "{a}", "'", '"', "|", "<", "😀", "👩\u200d🚀", "\udce9", "\x00", "\x7f",
    "x" * 255,
    "é" * 120, "e\u0301" * 80, "한" * 100, "x" * 251 + ".jpg", "manifest.json", "journal-00000.txt",
    "-rf", ".hidden", "a.", "a..", "tokens", "_", "__", "_con", "._a", "a.jpg ", "a .jpg",
)  # fmt: skip
parts = st.one_of(
    st.sampled_from(TRICKY), st.text(max_size=6), st.text("aA.é\u0301 ~_/", max_size=4)
)
names = st.lists(parts, min_size=1, max_size=4).map("/".join)


def check(found: list[str]) -> None:
    """Everything that is promised of a list of names of files."""
    for name, fold in FOLDS.items():
        folded = [fold(each) for each in found]
        assert len(set(folded)) == len(folded), name
        files = set(folded)
        for each in folded:
            ancestors = itertools.accumulate(each.split("/")[:-1], "{}/{}".format)
            assert not files & set(ancestors), name
    for each in found:
        assert len(each.encode("utf-8")) < 2500
        assert not PurePosixPath(each).is_absolute()
        windows = PureWindowsPath(each)
        assert not windows.drive and not windows.root and len(windows.parts) == each.count("/") + 1
        for part in each.split("/"):
            check_part(part)


def check_part(part: str) -> None:
    assert part not in ("", ".", "..") and not part.startswith(".")
    assert len(part.encode("utf-8")) <= 240
    assert len(unicodedata.normalize("NFD", part).encode("utf-16-le")) <= 2 * 240
    assert not re.search('[<>:"/\\\\|?*\x00-\x1f\x7f]', part)
    assert not part.endswith((".", " ")) and part.strip()
    assert part.split(".")[0].rstrip().lower() not in RESERVED
    assert unicodedata.is_normalized("NFC", part)


@given(st.lists(names, max_size=12))
@example(list(TRICKY))
@example([f"{a}/{b}" for a in TRICKY for b in ("x.jpg", "x.png")])
@example(["a.png/b.jpg", "a.jpg", "a.png", "A.PNG/c/d.jpg", "a.png/c"])
@example(["/".join("a" * 1000), "/".join("A" * 1000), "/".join("a" * 999)])
@example(["x" * 3000, "x" * 3001, "x" * 2999 + "/y"])
@example(["same.jpg"] * 5)
def test_files_are_distinct_and_legal_everywhere(given_names):
    check(file_names(given_names, ".png", REPLACED))


@given(st.lists(names, max_size=12))
@example(list(TRICKY))
@example(["tokens", "Tokens", "TOKENS.", "grid.png"])
def test_folders_are_distinct_and_legal_everywhere(given_names):
    taken = ["tokens", "grid.png"]
    found = folder_names(given_names, taken)
    assert len(found) == len(given_names) and not any("/" in name for name in found)
    check([*taken, *found])


@given(st.lists(names, max_size=12, unique=True), st.randoms())
def test_the_order_of_names_does_not_matter(given_names, random):
    """So that a run that is resumed, or shared by processes, uses the same files."""
    before = dict(zip(given_names, file_names(given_names), strict=True))
    random.shuffle(given_names)
    assert dict(zip(given_names, file_names(given_names), strict=True)) == before


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (["cat/1.jpg", "dog/1.JPEG", "x.png", "y"], ["cat/1.png", "dog/1.png", "x.png", "y.png"]),
        (["cat/photo of a cat, asleep (2).jpg"], ["cat/photo of a cat, asleep (2).png"]),
        (["猫/ねこ.jpg", "emoji 😀.png"], ["猫/ねこ.png", "emoji 😀.png"]),
        (["1.png#0", "v1.5/a.b.c.jpg"], ["1.png#0.png", "v1.5/a.b.c.png"]),
        (["//elsewhere/x.jpg", "/y.jpg"], ["_/_/elsewhere/x.png", "_/y.png"]),
        (
            ["../../y.jpg", "résumé/a.jpg", "resume/a.jpg"],
            ["_/_/y.png", "résumé/a.png", "resume/a.png"],
        ),
        (["C:/x.jpg", "a\\..\\b.jpg"], ["C_/x.png", "a_.._b.png"]),
        (["CON/nul.jpg", "a/manifest.json"], ["_CON/_nul.png", "a/manifest.json.png"]),
    ],
)
def test_plain_names_stay_as_they_are(given_names, expected):
    assert file_names(given_names, ".png", REPLACED) == expected


def test_of_names_that_collide_one_stays():
    assert folder_names(["cat.", "cat"])[1] == "cat"
    assert re.fullmatch(r"cat~[0-9a-f]{16}", folder_names(["cat.", "cat"])[0])
    both = file_names(["a.png", "a.jpg", "b.jpg"], ".png", REPLACED)
    assert both[1:] == ["a.png", "b.png"] and re.fullmatch(r"a~[0-9a-f]{16}\.png", both[0])
    twice = file_names(["a.jpg", "a.jpg"], ".png", REPLACED)
    assert all(re.fullmatch(r"a~[0-9a-f]{16}\.png", name) for name in twice)
