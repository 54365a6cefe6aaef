"""The photos that scikit-image and scikit-learn ship, as a small real data set.

Only files inside the installed packages are used; nothing is downloaded. Drawings, scanned pages,
masks, test patterns and deliberately blurred pictures are left out; ``text.png`` is a photo of
handwriting. Photos of one scene stay on one side of the split.
"""

import importlib.util
import pathlib

from gpstoken_jax.data import folder

# Held out: an animal, a flower, a night scene and a pure texture.
_VAL = (
    ("skimage", "data/chelsea.png"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/gravel.png"),
)
_TRAIN = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/motorcycle_right.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/text.png"),
    ("sklearn", "datasets/images/china.jpg"),
)


def list_demo_photos() -> folder.FolderListing:
    """Lists the demo's photos, without labels.

    Raises:
        ModuleNotFoundError: When scikit-image or scikit-learn is not installed.
        FileNotFoundError: When the installed version ships none of the photos of a split.
    """
    roots = {package: package_root(package) for package in ("skimage", "sklearn")}
    found, missing = [], []
    for split, photos in (("train", _TRAIN), ("val", _VAL)):
        for package, inside in photos:
            path = roots[package] / inside
            if path.exists():
                name = f"{split}/{path.name}"
                found.append(folder.ImageFile(path, name, folder.NO_LABEL, split))
            else:
                missing.append(folder.LeftOut(path.name, f"not shipped by this {package}"))
    if len(folder.count_by_split(tuple(found))) < 2:
        raise FileNotFoundError(f"photos not found: {', '.join(m.name for m in missing)}")
    files = tuple(sorted(found, key=lambda file: file.name))
    return folder.FolderListing(roots["skimage"] / "data", files, (), tuple(missing))


def package_root(package: str) -> pathlib.Path:
    """Finds an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        project = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise ModuleNotFoundError(f"the demo's photos need {project}: pip install {project}")
    return pathlib.Path(spec.origin).parent
