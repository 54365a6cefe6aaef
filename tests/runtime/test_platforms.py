"""Forms by platform: one is traced where it is known, both where it is not."""

import jax
import numpy as np
import pytest

from gpstoken_jax.model.roi_align import roi_align
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.devices import map_over_devices
from gpstoken_jax.runtime.platforms import by_platform, known_platform, tracing_for

IMAGES = np.zeros((1, 16, 16, 3), np.float32)


def _boxes(features):
    return roi_align(features, np.zeros((1, 2, 4), np.float32), 2)


@pytest.mark.parametrize(("platform", "form"), [("cpu", 1), ("cuda", 2), ("tpu", 2)])
def test_the_form_of_a_known_platform_is_traced_alone(platform, form):
    traced = []

    def one(x):
        traced.append(1)
        return x

    def other(x):
        traced.append(2)
        return x

    with tracing_for(platform):
        jax.make_jaxpr(lambda x: by_platform(x, cpu=one, default=other))(1.0)
    assert traced == [form]
    with tracing_for(platform), tracing_for(None):
        jax.make_jaxpr(lambda x: by_platform(x, cpu=one, default=other))(1.0)
    assert sorted(traced[1:]) == [1, 2]


@pytest.mark.parametrize(
    "function",
    [lambda x: partition_images(x, 4, min_size=2), _boxes, jax.grad(lambda x: _boxes(x).sum())],
)
def test_what_was_traced_for_one_platform_is_not_taken_for_another(function):
    found = []
    for platform in (None, "cpu", "cuda", None):
        with tracing_for(platform):
            found.append(str(jax.make_jaxpr(lambda x: function(x))(IMAGES)))
    assert found[0] == found[3] and len(set(found)) == 3
    both = "(('cpu',), None)"
    assert both in found[0] and both not in found[1] + found[2]


def test_a_function_of_devices_knows_their_platform():
    seen = []

    def look(x):
        seen.append(known_platform())
        return x

    with tracing_for(None):
        map_over_devices(look, (0,), devices=jax.local_devices()[:1])(np.zeros((1, 2)))
        assert seen == [jax.local_devices()[0].platform] and known_platform() is None
