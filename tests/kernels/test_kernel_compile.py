"""The program that compiles kernels fails when it should."""

from tests.ptx_emulator.kernel_compile import Usage, faults, table


def test_spills_too_many_registers_and_another_target_are_faults():
    usage = lambda registers, spilled, target="sm_80": Usage(  # noqa: E731
        "sm_80", "splat_tiles", 32, "float32", registers, spilled, 0, target
    )
    assert faults([usage(200, 0)], ceiling=216) == []
    assert "spills 4 bytes" in faults([usage(200, 4)], ceiling=216)[0]
    assert "217 registers" in faults([usage(217, 0)], ceiling=216)[0]
    assert "compiled for sm_90a" in faults([usage(200, 0, "sm_90a")], ceiling=216)[0]
    assert "| 200 |" in table([usage(200, 0)])
