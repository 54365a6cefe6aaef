"""The script that compiles kernels reads the assembler's report and fails when it should."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kernel_compile.py"
REPORT = """ptxas info    : Compiling entry function 'main_kernel' for 'sm_90a'
ptxas info    : Function properties for main_kernel
    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 203 registers, used 1 barriers, 1024 bytes smem
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kernel_compile", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_reads_registers_spills_and_shared_memory(script):
    assert script.parse_ptxas(REPORT) == (203, 36, 1024)


def test_a_report_without_a_kernel_is_an_error(script):
    with pytest.raises(ValueError, match="no kernel"):
        script.parse_ptxas("ptxas info: nothing")


def test_spills_and_too_many_registers_are_faults(script):
    usage = lambda registers, spilled: script.Usage(  # noqa: E731
        "sm_80", "backward", 32, "float32", registers, spilled, 0
    )
    assert script.faults([usage(200, 0)], ceiling=216) == []
    assert "spills 4 bytes" in script.faults([usage(200, 4)], ceiling=216)[0]
    assert "217 registers" in script.faults([usage(217, 0)], ceiling=216)[0]
    assert "| 200 |" in script.table([usage(200, 0)])
