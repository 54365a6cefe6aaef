"""JAX's transformations around the GPU kernels, with the kernels in the emulator.

    python -m tests.ptx_emulator.transformed

vmap, shard_map, checkpoint, jit and leading axes must give what the plain call gives, bit for bit:
a kernel does the same work for an image wherever the image stands. The exit status is 1 if not.
"""

import sys

import numpy as np

from . import targets

SIZE = (12, 20)


def main() -> int:
    targets.prepare()
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.kernels import pallas

    from .cases import Case, arguments
    from .compiled import Emulator

    case = Case("transformed", batch=6, tokens=20, size=SIZE, channels=5)
    tokens = [jnp.asarray(a) for a in arguments(case)[:2]]
    loss = lambda g, f: (pallas.splat(g, f, SIZE, 3.0) ** 2).sum()  # noqa: E731
    gradient = jax.grad(loss, (0, 1))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.vmap(gradient)
    ways = {
        "jit": jax.jit(gradient),
        "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1)),
        "shard_map": jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec),
        "vmap": lambda *a: [
            r.reshape(6, *r.shape[2:]) for r in mapped(*(x.reshape(2, 3, *x.shape[1:]) for x in a))
        ],
    }
    wrong = []
    with Emulator("sm_90a").in_place():
        plain = gradient(*tokens)
        for name, way in ways.items():
            same = all(np.array_equal(a, b) for a, b in zip(plain, way(*tokens), strict=True))
            print(f"{name}: {'the same bits' if same else 'DIFFERENT'}", flush=True)
            wrong += [] if same else [name]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
