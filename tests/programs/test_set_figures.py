"""eval.py with an Inception file: its figures, and files of "Diffusion Models Beat GANs".

A small network takes Inception's place: that one is checked by its layers (tests/features), and the
metrics beside PyTorch's (tests/metrics/test_set_metrics.py).
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.linalg import sqrtm
from skimage import data as photos

from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.metrics.manifold import precision_recall
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.weights import feature_networks, statistics

SIZES = {"fid": 6, "sfid": 4}
COUNT = 12


def features(weights, images):
    """Colours of the quarters, split up as Inception's outputs are."""
    means = jax.image.resize(images, (len(images), 2, 2, 3), "linear").reshape(-1, 12) + weights
    return {"fid": means[:, :6], "sfid": means[:, 6:10], "classes": jax.nn.softmax(9 * means)}


@pytest.fixture
def evaluate(program, monkeypatch, tmp_path):
    """Runs eval.py without the metrics that are not asked about; returns the figures."""
    network = feature_networks.FeatureNetwork("a small one", tuple(SIZES), features, jnp.zeros(()))
    monkeypatch.setattr(feature_networks, "inception_network", lambda path: network)
    monkeypatch.setattr(statistics, "_DIMENSIONS", SIZES)

    def run(*flags):
        output = tmp_path / f"eval-{len(list(tmp_path.glob('eval-*')))}"
        fixed = "--inception_file=x.pth", "--nolpips", "--report_images=0", "--baselines="
        program("eval", *fixed, *flags, f"--output={output}")
        return json.loads((output / "metrics.json").read_text())["metrics"]

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        crop = photos.coffee()[20 * i : 20 * i + 32, 30 * i : 30 * i + 32]
        Image.fromarray(crop).save(folder / f"{i:02d}.png")
    return folder


def _of(images):
    """Features by set of 8-bit images, in float64."""
    found = features(0.0, jnp.asarray(images / np.float32(127.5) - 1))
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _distance(a, b):
    """The Fréchet distance by its definition."""
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.mark.slow
def test_figures_and_files(evaluate, random_run, folder, tmp_path):
    """Of a tokenizer; then of its files, in every form in which samples and references come."""
    made, reference = tmp_path / "made.npz", tmp_path / "reference.npz"
    own = evaluate(
        f"--checkpoint={random_run}",
        f"--data.folder={folder}",
        "--precision_recall",
        f"--save_statistics={reference}",
        "--save_images",
        f"--save_batch={made}",
    )["model"]

    # ---- The files have what the suite reads, and what the figures say --------------------------
    arrays = {path: dict(np.load(path, allow_pickle=False)) for path in (made, reference)}
    for found in arrays.values():
        assert found["arr_0"].dtype == np.uint8 and found["arr_0"].shape == (COUNT, 32, 32, 3)
        for name, end in (("fid", ""), ("sfid", "_s")):
            values = _of(found["arr_0"])[name]
            np.testing.assert_allclose(found[f"mu{end}"], values.mean(0), atol=1e-5)
            np.testing.assert_allclose(found[f"sigma{end}"], np.cov(values.T), atol=1e-5)
    samples, originals = (_of(arrays[path]["arr_0"]) for path in (made, reference))
    for name in SIZES:
        assert own[f"r{name}"] == pytest.approx(_distance(samples[name], originals[name]), rel=1e-3)
    p = samples["classes"]
    score = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert own["inception_score"] == pytest.approx(score, rel=1e-4)
    cover = precision_recall(originals["fid"].astype("f4"), samples["fid"].astype("f4"))
    assert (own["precision"], own["recall"]) == pytest.approx(cover)

    # ---- The same figures of the files, whatever form they have ---------------------------------
    same = {name.removeprefix("r"): own[name] for name in ("rfid", "rsfid")}
    same |= {name: own[name] for name in ("inception_score", "precision", "recall")}
    again = evaluate(f"--images={made}", f"--reference={reference}", "--precision_recall")["images"]
    assert again == pytest.approx(same, rel=1e-4)
    images = arrays[reference]["arr_0"]
    np.savez(tmp_path / "unnamed.npz", images, np.arange(COUNT))  # arr_0, and labels in arr_1
    with open_output(tmp_path / "generated", "generated images", {}) as output:
        for i, image in enumerate(arrays[made]["arr_0"]):
            (output.directory / "cat").mkdir(exist_ok=True)
            Image.fromarray(image).save(output.directory / "cat" / f"{i:02d}.png")
        Image.fromarray(images[0].repeat(2, 0)).save(output.directory / "grid.png")
        (output.directory / "generation.json").write_text("{}")
        output.finish()
    for reference_form in (folder, tmp_path / "unnamed.npz"):
        where = f"--images={tmp_path / 'generated'}", f"--reference={reference_form}"
        assert evaluate(*where, "--precision_recall")["images"] == pytest.approx(same, rel=1e-4)

    # ---- Statistics of other programs, which are those of the FID alone -------------------------
    bare = tmp_path / "bare.npz"
    np.savez(bare, mu=arrays[reference]["mu"], sigma=arrays[reference]["sigma"])
    both = evaluate(f"--checkpoint={random_run}", f"--data.folder={folder}", f"--reference={bare}")[
        "model"
    ]
    assert both["rfid"] == pytest.approx(own["rfid"], rel=1e-5)
    assert both["fid"] == pytest.approx(own["rfid"], rel=1e-3) and "sfid" not in both
    np.savez(tmp_path / "odd.npz", images.astype(np.float32))
    np.savez_compressed(tmp_path / "packed.npz", images)
    for name, match in (
        ("odd", r"float32 .*, not uint8"),
        ("packed", r"compressed; write it with"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.npz was not read: arr_0 is {match}"):
            evaluate(f"--images={made}", f"--reference={tmp_path / name}.npz")
    with pytest.raises(ValueError, match=r"bare\.npz has statistics alone, no images \(arr_0\)"):
        evaluate(f"--images={made}", f"--reference={bare}", "--precision_recall")


def test_a_reference_folder_of_many_sizes_is_cut_to_that_of_the_samples(evaluate, folder, tmp_path):
    reference = tmp_path / "reference"
    reference.mkdir()
    for i in range(COUNT):
        photo = Image.fromarray(photos.coffee()[: 100 + 3 * i, 7 * i : 200])
        photo.save(reference / f"{i:02d}.png")
    where = f"--images={folder}", f"--reference={reference}"
    with pytest.raises(ValueError, match=r"not 100 x 200 .*--resolution=SIDE cuts them"):
        evaluate(*where)
    with pytest.raises(ValueError, match="are 32 x 32: --resolution must be their own"):
        evaluate(*where, "--resolution=64")
    (tmp_path / "bad.npz").write_text("no statistics")
    with pytest.raises(ValueError, match="--resolution must be"):  # told before that is looked at
        evaluate(f"--images={folder}", f"--reference={tmp_path / 'bad.npz'}", "--resolution=64")
    cut = np.stack(
        [
            resize_and_crop(Image.open(f), 32, resize="antialias")
            for f in sorted(reference.iterdir())
        ]
    )
    wanted = _distance(
        *(_of(x)["fid"] for x in (cut, np.stack([Image.open(f) for f in sorted(folder.iterdir())])))
    )
    assert evaluate(*where, "--resolution=32")["images"]["fid"] == pytest.approx(wanted, rel=1e-3)
