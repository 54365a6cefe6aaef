"""The emulator does what PTX says, and notices what is at fault."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.ptx_emulator.machine import Deadlock, run_kernel
from tests.ptx_emulator.numbers import EXACT, HARDWARE, matrix_multiply, to_bfloat16
from tests.ptx_emulator.program import Unsupported, parse

HEAD = """
.version 8.0
.target sm_80
.visible .entry k(
  .param .u64 k_param_0,
  .param .u64 k_param_1
)
{
  .reg .pred %p<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>;
  .shared .align 16 .b8 buffer[1024];
  ld.param.b64 %rd0, [k_param_0];
  ld.param.b64 %rd1, [k_param_1];
  mov.u32 %r0, %tid.x;
  mul.wide.u32 %rd2, %r0, 4;
  add.s64 %rd3, %rd0, %rd2;
  add.s64 %rd4, %rd1, %rd2;
"""
X = np.arange(128, dtype=np.float32)
EXCHANGE = """
  mov.b32 %r3, buffer; shl.b32 %r4, %r0, 2; add.s32 %r5, %r3, %r4;
  ld.global.b32 %r1, [%rd3]; st.shared.b32 [%r5], %r1;
  BARRIER
  xor.b32 %r6, %r4, MASK; add.s32 %r7, %r3, %r6; ld.shared.b32 %r2, [%r7];
  st.global.b32 [%rd4], %r2;
"""


def run(body, count=128, model=EXACT):
    """The output of one block of 128 threads, and the kinds of faults."""
    kernel = SimpleNamespace(
        program=parse(HEAD + body + "\n ret;\n}\n"),
        outputs=[(np.dtype("float32"), (count,))],
        order=(0, 1),
        blocks=1,
        threads=128,
        shared_bytes=1024,
        partly_written=(),
    )
    (output,), report = run_kernel(kernel, [X], model)
    return output, set(report.faults)


def test_arithmetic_of_every_thread():
    output, faults = run(
        "ld.global.b32 %r1, [%rd3]; fma.rn.f32 %r1, %r1, 0f40000000, 0f3F800000;"
        "st.global.b32 [%rd4], %r1;"
    )
    np.testing.assert_array_equal(output, 2 * X + 1)
    assert not faults


def test_a_loop_whose_trips_differ_and_lanes_that_meet_again():
    output, faults = run("""
      and.b32 %r1, %r0, 7; mov.b32 %r2, 0f00000000;
      setp.eq.b32 %p1, %r1, 0;
      @%p1 bra $done;
      $loop:
      add.rn.f32 %r2, %r2, 0f40000000; add.s32 %r1, %r1, -1; setp.ne.b32 %p2, %r1, 0;
      @%p2 bra $loop;
      $done:
      shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
      st.global.b32 [%rd4], %r3;""")
    np.testing.assert_array_equal(output, 2 * ((np.arange(128) ^ 1) % 8))
    assert not faults


@pytest.mark.parametrize(
    ("barrier", "mask", "race"),
    [
        ("bar.sync 0;", 508, False),  # any thread of the block
        ("bar.warp.sync -1;", 124, False),  # any lane of the warp
        ("bar.warp.sync -1;", 508, True),
        ("", 4, True),
    ],
)
def test_shared_memory_races_unless_a_barrier_orders_it(barrier, mask, race):
    output, faults = run(EXCHANGE.replace("BARRIER", barrier).replace("MASK", str(mask)))
    if race:
        assert "shared: read races with a write" in faults
    else:
        assert not faults
        np.testing.assert_array_equal(output, (np.arange(128) ^ (mask // 4)))


def test_writing_again_before_the_others_have_read_is_a_race():
    body = EXCHANGE.replace("BARRIER", "bar.sync 0;").replace("MASK", "508")
    _, faults = run(body + "st.shared.b32 [%r5], %r2;")
    assert "shared: write races with an access" in faults
    _, faults = run(body + "bar.sync 0; st.shared.b32 [%r5], %r2;")
    assert not faults


@pytest.mark.parametrize(
    ("body", "count", "fault"),
    [
        ("ld.global.b32 %r1, [%rd3+4]; st.global.b32 [%rd4], %r1;", 128, "out of bounds"),
        ("ld.global.v2.b32 {%r1, %r2}, [%rd3]; st.global.b32 [%rd4], %r1;", 128, "misaligned"),
        ("ld.global.b32 %r1, [%rd4]; st.global.b32 [%rd4], %r1;", 128,
         "read of memory never written"),
        ("st.global.b32 [%rd1], %r0;", 1, "two threads write one place"),
        ("st.global.b32 [%rd4], %r0;", 129, "output bytes never written"),
        ("st.global.b32 [%rd3], %r0; st.global.b32 [%rd4], %r0;", 128, "write to an input"),
        ("add.rn.f32 %r1, %r9, %r9; st.global.b32 [%rd4], %r1;", 128,
         "read of a register never written"),
        ("ld.shared.b32 %r1, [%r0]; st.global.b32 [%rd4], %r1;", 128, "shared: misaligned"),
    ],
)  # fmt: skip
def test_faults_are_noticed(body, count, fault):
    assert fault in run(body, count)[1]


def test_a_barrier_that_some_never_reach_is_a_deadlock():
    skip = "setp.lt.u32 %p1, %r0, 5; @%p1 bra $skip; BARRIER $skip: st.global.b32 [%rd4], %r0;"
    for barrier in ("bar.sync 0;", "bar.warp.sync -1;"):
        with pytest.raises(Deadlock, match="not all lanes"):
            run(skip.replace("BARRIER", barrier))


def test_an_instruction_that_it_does_not_know_is_named():
    with pytest.raises(Unsupported, match=r"atom\.add"):
        run("atom.add.u32 %r1, [%rd4], %r0;")


@pytest.mark.parametrize(("model", "bound"), [(EXACT, 1e-7), (HARDWARE["sm_80"], 2e-6)])
def test_matrix_fragments_are_those_of_the_ptx_isa(model, bound):
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((16, 16), (16, 8), (16, 8)))
    a, b = ((to_bfloat16(m) << 16).view(np.float32) for m in (a, b))
    pair = lambda low, high: int(to_bfloat16(low)) | int(to_bfloat16(high)) << 16  # noqa: E731
    left, right, total = (np.zeros((n, 1, 32), np.uint32) for n in (4, 2, 4))
    for lane in range(32):
        group, place = lane // 4, lane % 4
        for i in range(4):  # a0..a7 two by two: rows g, g + 8; columns 2 t and 2 t + 8
            row, column = group + 8 * (i % 2), 2 * place + 8 * (i // 2)
            left[i, 0, lane] = pair(a[row, column], a[row, column + 1])
            total[i, 0, lane] = c[group + 8 * (i // 2), 2 * place + i % 2].view(np.uint32)
        for i in range(2):
            row = 2 * place + 8 * i
            right[i, 0, lane] = pair(b[row, group], b[row + 1, group])
    result = matrix_multiply(list(left), list(right), list(total), model)
    wanted = a.astype(np.float64) @ b.astype(np.float64) + c
    for lane in range(32):
        for i in range(4):
            value = wanted[lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2]
            assert abs(result[i][0, lane].view(np.float32) - value) < bound * np.abs(wanted).max()
