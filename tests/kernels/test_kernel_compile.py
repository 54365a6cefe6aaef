"""The script that compiles kernels fails when it should."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kernel_compile.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kernel_compile", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_spills_too_many_registers_and_another_target_are_faults(script):
    usage = lambda registers, spilled, target="sm_80": script.Usage(  # noqa: E731
        "sm_80", "splat_tiles", 32, "float32", registers, spilled, 0, target
    )
    assert script.faults([usage(200, 0)], ceiling=216) == []
    assert "spills 4 bytes" in script.faults([usage(200, 4)], ceiling=216)[0]
    assert "217 registers" in script.faults([usage(217, 0)], ceiling=216)[0]
    assert "compiled for sm_90a" in script.faults([usage(200, 0, "sm_90a")], ceiling=216)[0]
    assert "| 200 |" in script.table([usage(200, 0)])
