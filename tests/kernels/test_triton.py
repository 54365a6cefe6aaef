"""The Triton implementation passes the suite in Triton's interpreter."""

import os

import jax
import pytest

from gpstoken_jax.kernels import self_check
from gpstoken_jax.kernels import triton as splat_triton
from tests.kernels import triton_interpreter
from tests.kernels.suite import SplatSuite

ON_GPU = jax.default_backend() == "gpu"
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the programs are defined
pytest.importorskip("triton")


@pytest.fixture(scope="module", autouse=True)
def interpreted():
    if ON_GPU:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splat_triton, "launch", triton_interpreter.launch)
        patch.setattr(splat_triton, "unsupported", lambda platform, dtype: None)
        self_check._fault.cache_clear()
        yield
    self_check._fault.cache_clear()
    jax.clear_caches()


class TestTriton(SplatSuite):
    implementation = "triton"
    precision = 5.0  # three TF32 products, not float32
    if not ON_GPU:
        golden = ""
        regime_size, regime_tokens = (9, 10), 40
        shapes = (((1, 1), 1, 1), ((5, 9), 33, 3), ((9, 4), 2, 40))
        examples = 2
