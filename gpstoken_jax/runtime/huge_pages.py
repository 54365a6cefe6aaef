"""Huge pages for a program's memory, without which a CPU spends a quarter of a step on page faults.

XLA asks for the memory of a step anew each time, gigabytes at full size, and the kernel hands it
out, zeroed, a page at a time: of 4 KB, or of 2 MB where it is asked to.
"""

import contextlib
import os
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"  # since glibc 2.35; 1 asks for transparent huge pages
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts the program again, in the same process, with huge pages asked for.

    glibc reads that from the environment, before Python is there. Nothing is done where the kernel
    gives them to all or to none, where glibc cannot ask, where the process is not this program's
    alone (a notebook, a debugger), or where the user has set the variable's entry, so that
    ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0`` switches this off. To be called before anything is
    printed, opened or imported that takes time.
    """
    given = os.environ.get(_VARIABLE, "")
    if _TUNABLE in given or not _is_alone() or not _on_request():
        return
    environment = os.environ | {_VARIABLE: f"{given}:{_TUNABLE}=1".lstrip(":")}
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_alone() -> bool:
    """Tells whether the process was started for this program, and nobody looks on."""
    arguments = sys.argv[1:]
    own = sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments
    return own and bool(sys.executable) and sys.gettrace() is None and not hasattr(sys, "ps1")


def _on_request() -> bool:
    """Tells whether huge pages are to be had, and only by asking."""
    try:
        library, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        major, minor = map(int, version.split(".")[:2])
        modes = _MODES.read_text()
    except (AttributeError, OSError, ValueError):  # another system, another library
        return False
    return library == "glibc" and (major, minor) >= (2, 35) and "[madvise]" in modes
