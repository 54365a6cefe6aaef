"""Arithmetic of a step, counted in its program, and the share of the device that it uses."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

# Floating-point operations a second in bfloat16 without sparsity, from the vendors' data sheets.
PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


class Work:
    """The arithmetic of the steps since the last ``tick``."""

    def __init__(self):
        self._of_step: dict[Callable, int] = {}
        self._done = 0

    def follow(self, step: Callable[..., Any], *args: Any) -> None:
        """Counts a step that begins; its arguments are those of ``step``."""
        if step not in self._of_step:
            self._of_step[step] = count_flops(step, *args)
        self._done += self._of_step[step]

    def tick(self, seconds: float) -> dict[str, float]:
        """tflops: operations a second on one device, in 10^12; mfu: their share of its peak."""
        done, self._done = self._done, 0
        rate = {"tflops": done / seconds / 1e12}
        if (share := utilisation(done, seconds)) is not None:
            rate["mfu"] = share
        return rate


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Operations of the matrix products and convolutions of a function on one device.

    A multiplication and an addition are two. A loop counts as often as it runs (XLA's own count
    takes its body once), of branches the largest; what is computed again to save memory counts
    again, what leads to no result does not. Element-wise operations and hand-written kernels are
    left out.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))[0]


def utilisation(flops: float, seconds: float) -> float | None:
    """Share of this process's first device's peak; None for a device that is not in ``PEAKS``.

    flops: of one device, in ``seconds``.
    """
    peak = PEAKS.get(jax.local_devices()[0].device_kind)
    return None if peak is None else flops / seconds / peak


def _count(jaxpr: core.Jaxpr, used: Sequence[bool]) -> tuple[int, list[bool]]:
    """Operations for the outputs that are used, and which inputs they need.

    What leads to no such output is left out, as the compiler does.
    """
    total = 0
    live = {v for v, u in zip(jaxpr.outvars, used, strict=True) if u and isinstance(v, core.Var)}
    for equation in reversed(jaxpr.eqns):
        outputs = [v in live for v in equation.outvars]
        if any(outputs):
            flops, inputs = _count_equation(equation, outputs)
            total += flops
            pairs = zip(equation.invars, inputs, strict=True)
            live |= {v for v, u in pairs if u and isinstance(v, core.Var)}
    return total, [v in live for v in jaxpr.invars]


def _count_equation(equation: core.JaxprEqn, used: Sequence[bool]) -> tuple[int, list[bool]]:
    name, all_inputs = equation.primitive.name, [True] * len(equation.invars)
    if name == "dot_general":
        return _dot_general(equation), all_inputs
    if name == "conv_general_dilated":
        return _convolution(equation), all_inputs
    if name == "pallas_call":
        return 0, all_inputs
    inner = list(inner_programs(equation))
    if len(inner) == 1 and name != "scan" and _same_arity(equation, inner[0]):
        return _count(inner[0], used)
    counts = [_count(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner]
    if name == "cond":
        return max(counts), all_inputs
    return sum(counts) * (equation.params["length"] if name == "scan" else 1), all_inputs


def _same_arity(equation: core.JaxprEqn, jaxpr: core.Jaxpr) -> bool:
    """Tells whether an operation is a mere call of its program."""
    lengths = len(equation.invars), len(equation.outvars)
    return lengths == (len(jaxpr.invars), len(jaxpr.outvars))


def inner_programs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an operation: loops, branches, calls."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot_general(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)


def _convolution(equation: core.JaxprEqn) -> int:
    """Zeros that a dilated input (the gradient of a strided convolution) has are not counted."""
    kernel = equation.invars[1].aval.shape
    _, in_features, *spatial = (kernel[i] for i in equation.params["dimension_numbers"].rhs_spec)
    products = in_features * math.prod(spatial) * math.prod(equation.outvars[0].aval.shape)
    return 2 * products // math.prod(equation.params["lhs_dilation"])
