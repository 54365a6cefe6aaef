"""RoIAlign against values and gradients measured from the published operator."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.model.roi_align import axis_weights, roi_align
from gpstoken_jax.partition.geometry import boxes_to_pixels
from gpstoken_jax.partition.host import partition

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "roialign.npz")
IMPLEMENTATIONS = ["dense", "windows", None]


def golden_case():
    """Features [2, 64, 64, 16], every box for both images, and the image and number of each box."""
    features = GOLDEN["x"].transpose(0, 2, 3, 1)
    rois = GOLDEN["rois"]
    boxes = np.broadcast_to(rois[:, 1:], (2, *rois[:, 1:].shape))
    return features, boxes, (rois[:, 0].astype(int), np.arange(len(rois)))


def naive(features, boxes, bins):
    """The definition, sample by sample, in float64."""
    height, width = features.shape[:2]
    out = np.zeros((len(boxes), bins, bins, features.shape[2]))
    for box, (x1, y1, x2, y2) in zip(out, boxes.astype(float) - 0.5, strict=True):
        sides = (y2 - y1) / bins, (x2 - x1) / bins
        samples = [max(int(np.ceil(side)), 0) for side in sides]
        for row, column in np.ndindex(bins, bins):
            for i, j in np.ndindex(*samples):
                y = y1 + (row + (i + 0.5) / samples[0]) * sides[0]
                x = x1 + (column + (j + 0.5) / samples[1]) * sides[1]
                if -1 <= y <= height and -1 <= x <= width:
                    box[row, column] += _bilinear(features, y, x) / np.prod(samples)
    return out


def _bilinear(features, y, x):
    height, width = features.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    v, u = y - top, x - left
    a, b = features[top, left : left + 2], features[top + 1, left : left + 2]
    return (1 - v) * ((1 - u) * a[0] + u * a[1]) + v * ((1 - u) * b[0] + u * b[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_values_of_the_release(implementation):
    features, boxes, chosen = golden_case()
    out = jax.jit(lambda f, b: roi_align(f, b, 8, implementation=implementation))(features, boxes)
    expected = GOLDEN["y"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(np.asarray(out)[chosen], expected, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_of_the_release(implementation):
    features, boxes, chosen = golden_case()
    cotangent = np.zeros((*boxes.shape[:2], 8, 8, 16), np.float32)
    cotangent[chosen] = GOLDEN["cot"].transpose(0, 2, 3, 1)

    def loss(features, boxes):
        return (roi_align(features, boxes, 8, implementation=implementation) * cotangent).sum()

    gradient, of_boxes = jax.jit(jax.grad(loss, argnums=(0, 1)))(features, boxes)
    np.testing.assert_allclose(gradient, GOLDEN["grad_x"].transpose(0, 2, 3, 1), atol=1e-5)
    assert not np.asarray(of_boxes).any()  # constants, as documented


@pytest.mark.parametrize("implementation", ["dense", "windows"])
def test_definition_on_odd_maps_and_boxes(implementation):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 21, 50, 3)).astype(np.float32)
    corners = rng.uniform(-6, 56, size=(40, 4)).astype(np.float32)
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), corners[:, 2:]], axis=1)
    boxes[0] = -30, -20, 70, 44
    out = roi_align(features, boxes[None], 5, implementation=implementation)
    np.testing.assert_allclose(out[0], naive(features[0], boxes, 5), atol=2e-4)


@pytest.mark.parametrize("implementation", ["dense", "windows"])
def test_regions_of_a_partition(implementation):
    rng = np.random.default_rng(1)
    grey = rng.uniform(-1, 1, (2, 64, 64)).astype(np.float32)
    boxes = boxes_to_pixels(partition(grey, 16)[1], 64, 64)
    features = rng.normal(size=(2, 64, 64, 4)).astype(np.float32)
    out = roi_align(features, boxes, (8, 8), implementation=implementation)
    for image in range(2):
        np.testing.assert_allclose(out[image], naive(features[image], boxes[image], 8), atol=2e-5)


def test_axis_weights_sum_to_one_inside_and_to_zero_for_nothing():
    low, high = jnp.array([3.0, 10.0, 0.0, 5.0]), jnp.array([40.0, 10.5, 63.0, 5.0])
    sums = axis_weights(low, high, 8, 64, jnp.arange(64)[None]).sum(-1)
    np.testing.assert_allclose(sums[:3], 1, atol=1e-5)
    assert not np.asarray(sums[3]).any()


def test_memory_of_the_dense_form_is_bounded(monkeypatch):
    monkeypatch.setattr("gpstoken_jax.model.roi_align.dense._MOST_ELEMENTS", 40_000)
    features, boxes, _ = golden_case()
    jaxpr = str(
        jax.make_jaxpr(lambda f, b: roi_align(f, b, 8, implementation="dense"))(features, boxes)
    )
    assert "scan" in jaxpr
    few = roi_align(features, boxes, 8, implementation="dense")
    whole = roi_align(features, boxes, 8, implementation="windows")
    np.testing.assert_allclose(few, whole, atol=1e-5)


def test_bfloat16_in_bfloat16_out():
    features, boxes, _ = golden_case()
    low = roi_align(jnp.asarray(features, jnp.bfloat16), boxes, 8)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), roi_align(features, boxes, 8), atol=0.05)


def test_unusable_arguments_are_refused():
    features, boxes = jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="same B"):
        roi_align(features, boxes[:1], 8)
    with pytest.raises(ValueError, match="same B"):
        roi_align(features[0], boxes, 8)
    with pytest.raises(ValueError, match="implementation must be one of"):
        roi_align(features, boxes, 8, implementation="cuda")
