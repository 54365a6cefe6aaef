"""Cases for the compiled kernels, and what is right for them, in float64."""

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from tests.kernels.float64 import Exact, splat64

# Of the largest difference over the largest value wanted.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}
INERT = np.float32([1, 1, 0, 1e30, 1e30])


@dataclass(frozen=True)
class Case:
    """Tokens drawn at random: sigma, rho and centre from ranges; then something special.

    few: also part of the short check. slots: an image's, instead of the usual number.
    """

    name: str
    batch: int = 2
    tokens: int = 100
    size: tuple[int, int] = (24, 20)
    channels: int = 20
    dtype: str = "float32"
    sigma: tuple[float, float] = (0.05, 0.3)
    rho: tuple[float, float] = (-0.9, 0.9)
    centre: tuple[float, float] = (-1.1, 1.1)
    special: str = ""
    bound: float = 0.0  # instead of the one for the type
    slots: int | None = None
    few: bool = False

    @property
    def limit(self) -> float:
        return self.bound or BOUNDS[self.dtype]

    @property
    def type(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else np.dtype(self.dtype)


_SMALL = {"sigma": (0.02, 0.1)}
CASES = [
    Case("random", few=True),
    Case("random, bfloat16", dtype="bfloat16"),
    Case("C=16", channels=16),
    Case("C=16, bfloat16", channels=16, dtype="bfloat16", few=True),
    Case("C=32", channels=32),
    Case("C=32, bfloat16", channels=32, dtype="bfloat16"),
    Case("C=40 (2 chunks)", channels=40),
    Case("C=40, bfloat16", channels=40, dtype="bfloat16"),
    Case("C=1", channels=1),
    Case("C=3", channels=3, tokens=33, few=True),
    Case("C=3, bfloat16", channels=3, tokens=33, dtype="bfloat16"),
    Case("L=1", tokens=1),
    Case("L=1, bfloat16", tokens=1, dtype="bfloat16", channels=16),
    Case("L=65, 17 x 23", tokens=65, size=(17, 23)),
    Case("1 x 7", size=(1, 7), tokens=40),
    Case("1 x 1", size=(1, 1), tokens=5, batch=1),
    Case("9 x 4", size=(9, 4), channels=7),
    Case("all off the map", centre=(3.0, 5.0)),
    Case("partly off the map", centre=(-3.0, 3.0)),
    Case("tiny sigma 1e-3..1e-2", sigma=(1e-3, 1e-2), special="on pixels", bound=1e-3),
    Case("tiny sigma 1e-6", sigma=(1e-6, 2e-6), special="on pixels", bound=1e-3),
    Case("huge sigma 1e3", sigma=(1e3, 2e3)),
    Case("|rho| 0.999", rho=(0.999, 0.999), special="signs", bound=1e-3),
    Case("|rho| 0.99999", rho=(0.99999, 0.99999), special="signs", bound=2e-2),
    Case("|rho| 0.999, bfloat16", rho=(0.999, 0.999), special="signs", dtype="bfloat16"),
    Case("all on one point", centre=(0.1, 0.1)),
    Case("big features 1e30", special="big"),
    Case("small features 1e-30", special="small"),
    Case("values that are not finite, each alone", special="not finite", few=True),
    Case("600 tokens, two shares", batch=1, tokens=600, size=(32, 32), **_SMALL),
    Case("1024 tokens", batch=1, tokens=1024, size=(32, 32), channels=16, **_SMALL),
    Case(
        "1500 tokens, lists", batch=1, tokens=1500, size=(72, 40), channels=16, **_SMALL, few=True
    ),
    Case("2100 tokens on a small map", tokens=2100, size=(16, 16), channels=40, **_SMALL),
    Case("2100, bfloat16", tokens=2100, size=(16, 16), channels=40, dtype="bfloat16", **_SMALL),
    Case("few slots", size=(40, 24), slots=300, few=True),
    Case("no slots", tokens=70, size=(40, 24), channels=40, slots=0),
    Case("no slots, bfloat16", tokens=70, size=(40, 24), slots=0, dtype="bfloat16"),
    Case("no slots, lists", batch=1, tokens=1100, size=(24, 40), channels=8, slots=0, **_SMALL),
]


def drawn(seed: int) -> Case:
    """A case of shapes and tokens drawn at random."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    low = float(10 ** rng.uniform(-2, 0))
    case = Case(
        "",
        batch=int(rng.integers(1, 4)),
        tokens=int(rng.integers(1, 200)),
        size=(int(rng.integers(1, 41)), int(rng.integers(1, 41))),
        channels=int(pick(1, 2, 8, 15, 16, 17, 31, 32, 33, 48, 70)),
        dtype=pick("float32", "float32", "bfloat16"),
        sigma=(low, low * 4),
        rho=pick((-0.9, 0.9), (-0.99, 0.99), (0.0, 0.0)),
        centre=pick((-1.1, 1.1), (-2.0, 2.0)),
        slots=pick(None, None, int(rng.integers(0, 200))),
    )
    sizes = f"{case.batch} x {case.tokens}, {case.size}, C={case.channels}"
    return replace(case, name=f"seed {seed}: {sizes}, {case.dtype}, sigma {low:.2g}, {case.slots}")


def arguments(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometry, features and cotangent; the last two in the case's type."""
    rng = np.random.default_rng(sum(case.name.encode()))
    shape = (case.batch, case.tokens)
    ranges = (case.sigma, case.sigma, case.rho, case.centre, case.centre)
    geometry = np.stack([rng.uniform(*r, shape) for r in ranges], axis=-1).astype(np.float32)
    features = rng.normal(size=(*shape, case.channels)).astype(np.float32)
    if case.special == "on pixels":
        for axis, count in ((3, case.size[1]), (4, case.size[0])):
            pixel = (2.0 * rng.integers(0, count, shape) / (count - 1) - 1.0).astype(np.float32)
            off = rng.uniform(-1, 1, shape) * geometry[..., axis - 3]
            geometry[..., axis] = pixel + off.astype(np.float32)
    if case.special == "signs":
        geometry[..., 2] *= rng.choice([-1, 1], shape)
    if case.special == "not finite":
        for n in range(5):
            for k, value in enumerate((np.nan, np.inf, -np.inf)):
                geometry[:, 3 * n + k, n] = value
    features *= np.float32({"big": 1e30, "small": 1e-30}.get(case.special, 1.0))
    cotangent = rng.normal(size=(case.batch, *case.size, case.channels)).astype(np.float32)
    return geometry, features.astype(case.type), cotangent.astype(case.type)


def expected(geometry, features, cotangent) -> Exact:
    """The map and the gradients of a batch; a token that is not finite draws nothing."""
    lost = ~np.isfinite(geometry).all(axis=-1, keepdims=True)
    geometry = np.where(lost, INERT, geometry)
    size = cotangent.shape[1:3]
    images = [
        splat64(g, f.astype(np.float64), size, 3.0, c)
        for g, f, c in zip(geometry, features, cotangent, strict=True)
    ]
    fields = ("image", "d_geometry", "d_features")
    return Exact(*(np.stack([getattr(image, name) for image in images]) for name in fields))


def errors(actual, exact: Exact) -> dict[str, float]:
    """Largest differences over the largest values; of the geometry's gradient the worst column."""
    image, d_geometry, d_features = actual
    columns = zip(np.moveaxis(d_geometry, -1, 0), np.moveaxis(exact.d_geometry, -1, 0), strict=True)
    return {
        "map": _error(image, exact.image),
        "d_features": _error(d_features, exact.d_features),
        "d_geometry": max(_error(*column) for column in columns),
    }


def _error(actual, wanted) -> float:
    actual = np.asarray(actual).astype(np.float64)
    if not np.isfinite(actual).all():
        return float("inf")
    scale = np.abs(wanted).max(initial=0.0)
    return float(np.abs(actual - wanted).max(initial=0.0) / (scale or 1.0))
