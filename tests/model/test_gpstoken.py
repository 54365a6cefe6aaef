"""The model against the published implementation: tokens, map, image, gradients, parameters."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gpstoken_jax.configs import common, gpstoken_l256, gpstoken_m128, gpstoken_s64
from gpstoken_jax.model.encoder import refine_geometry
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.weights.published import tokenizer_table

CASES = {"case_n1": ["astronaut_c"], "case_n2": ["chelsea", "lowtex_china_sky"]}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "gpstoken_tiny.npz")


@pytest.fixture(scope="module")
def tensors(golden_dir):
    return load_file(golden_dir / "gpstoken_tiny_weights.safetensors")


@pytest.fixture(scope="module")
def config():
    config = common.model()
    config.encoder.update(width=64, depth=2)
    config.decoder.update(channels=32, blocks_per_level=2)
    return config


@pytest.fixture(scope="module")
def model(config):
    return GPSToken(config)


@pytest.fixture(scope="module")
def apply(model):
    """Returns the model compiled, once a method and shape."""
    return jax.jit(model.apply, static_argnames="method")


@pytest.fixture(scope="module")
def params(tensors, config):
    return tokenizer_table(config).from_torch(tensors)


@pytest.fixture(scope="module")
def photos(golden_dir):
    stored = np.load(golden_dir / "partition.npz")
    return {
        case: np.stack([stored[f"{name}/rgb_u8"] for name in names]) / np.float32(127.5) - 1
        for case, names in CASES.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_encode_gives_the_published_tokens(case, apply, params, photos, golden):
    tokens = apply(
        params,
        photos[case],
        golden[f"{case}/init_gpscodes"],
        golden[f"{case}/regions_in"],
        method="encode",
    )
    np.testing.assert_allclose(tokens, golden[f"{case}/tokens"], atol=2e-5)


def test_render_gives_the_published_map(apply, params, golden):
    rendered = apply(params, golden["case_n1/tokens"], method="render")
    np.testing.assert_allclose(_nchw(rendered), golden["case_n1/rendered"], atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_decode_gives_the_published_image(case, apply, params, golden):
    decoded = _nchw(apply(params, golden[f"{case}/tokens"], method="decode"))
    if case == "case_n1":
        np.testing.assert_allclose(decoded, golden["case_n1/decoded@b0"], atol=1e-4)
    else:
        np.testing.assert_allclose(
            decoded[1:, :, ::2, ::2], golden["case_n2/decoded@b1_sub2"], atol=1e-4
        )


@pytest.mark.slow
def test_call_is_decode_of_encode(apply, model, params, photos, golden):
    arguments = photos["case_n1"], golden["case_n1/init_gpscodes"], golden["case_n1/regions_in"]
    whole = apply(params, *arguments)
    tokens = apply(params, *arguments, method="encode")
    np.testing.assert_array_equal(whole, apply(params, tokens, method="decode"))
    np.testing.assert_allclose(_nchw(whole), golden["case_n1/decoded@b0"], atol=2e-4)
    all_the_way = jax.jit(model.apply, static_argnums=2, static_argnames="method")(
        params, arguments[0], arguments[1].shape[1], method="reconstruct"
    )
    np.testing.assert_allclose(all_the_way, whole, atol=2e-4)


def test_gradients_are_the_published_ones(
    model, params, photos, golden, tensors, config, golden_dir
):
    images = photos["case_n1"]

    def loss(params):
        out = model.apply(
            params, images, golden["case_n1/init_gpscodes"], golden["case_n1/regions_in"]
        )
        return jnp.square(out - images).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, golden["case_n1/grad/loss"][0], rtol=1e-5)
    by_key = tokenizer_table(config).to_torch(jax.device_get(grads))
    stored = [key for key in golden.files if key.startswith("case_n1/grad/")]
    for name in (key.removeprefix("case_n1/grad/") for key in stored):
        if name in by_key:
            expected = golden[f"case_n1/grad/{name}"]
            error = np.abs(by_key[name] - expected).max() / np.abs(expected).max()
            assert error < 1e-3, f"{name}: {error}"
    norms = dict(
        zip(_published_order(tensors, golden_dir), golden["case_n1/grad/norms"], strict=True)
    )
    for name, norm in norms.items():
        if not np.isnan(norm):
            np.testing.assert_allclose(np.linalg.norm(by_key[name]), norm, 2e-3, 1e-7, err_msg=name)


def test_render_size_and_token_count_are_free(model, params):
    rng = np.random.default_rng(0)
    for count in (1, 3, 40):
        tokens = rng.uniform(0.1, 0.9, (1, count, 21)).astype(np.float32)
        decode = partial(model.apply, method="decode")
        assert jax.eval_shape(decode, params, tokens).shape == (1, 256, 256, 3)


@pytest.mark.parametrize(
    ("config", "name"), [(gpstoken_s64, "M128"), (gpstoken_m128, "M128"), (gpstoken_l256, "L256")]
)
def test_full_size_parameters_are_those_of_the_release(config, name, golden_dir):
    published = json.loads((golden_dir / "parameter_shapes.json").read_text())[name]
    config = config.get_config().model
    shapes = jax.eval_shape(lambda key: init_params(GPSToken(config), key), jax.random.key(0))
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    ours = {
        key: list(value.shape) for key, value in tokenizer_table(config).to_torch(zeros).items()
    }
    assert ours == published
    used = {key: shape for key, shape in published.items() if "temb_proj" not in key}
    count = sum(int(np.prod(shape)) for shape in used.values())
    assert sum(s.size for s in jax.tree.leaves(shapes)) == count
    assert count == {"M128": 128_663_478, "L256": 128_745_414}[name] - 131_328


def test_wrong_shapes_are_named(model, params):
    images, geometry, boxes = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 4, 5)), jnp.zeros((1, 4, 4))
    with pytest.raises(ValueError, match="channel-last"):
        model.apply(params, images.transpose(0, 3, 1, 2), geometry, boxes, method="encode")
    with pytest.raises(ValueError, match="geometry must be"):
        model.apply(params, images, geometry, boxes[:, :3], method="encode")
    with pytest.raises(ValueError, match="16 features"):
        model.apply(params, jnp.zeros((1, 4, 37)), method="decode")


@pytest.mark.slow
def test_bfloat16_compute_stays_close(tensors, photos, golden, config):
    config = config.copy_and_resolve_references()
    params = tokenizer_table(config).from_torch(tensors)
    config.dtype = "bfloat16"
    tokens = jax.jit(partial(GPSToken(config).apply, method="encode"))(
        params, photos["case_n1"], golden["case_n1/init_gpscodes"], golden["case_n1/regions_in"]
    )
    assert tokens.dtype == jnp.float32
    np.testing.assert_allclose(tokens, golden["case_n1/tokens"], atol=0.05)


@pytest.mark.slow
def test_remat_changes_memory_not_values(params, photos, golden, config):
    config = config.copy_and_resolve_references()
    arguments = photos["case_n1"], golden["case_n1/init_gpscodes"], golden["case_n1/regions_in"]
    config.encoder.remat = True
    tokens = jax.jit(partial(GPSToken(config).apply, method="encode"))(params, *arguments)
    np.testing.assert_allclose(tokens, golden["case_n1/tokens"], atol=2e-5)


def test_refinement_keeps_values_in_range_and_boundaries_finite():
    geometry = jnp.array([[0.0, 1.0, -1.0, 1.0, 0.3], [0.2, 0.7, 0.0, -0.4, 0.9]])
    for delta in (-1e3, -1.0, 0.0, 1.0, 1e3):
        refined = refine_geometry(geometry, jnp.full_like(geometry, delta))
        assert np.isfinite(refined).all()
        assert (refined[:, :2] >= 0).all()
        assert (np.abs(refined) <= 1).all()
        grads = jax.grad(lambda g, d=delta: refine_geometry(g, jnp.full_like(g, d)).sum())(geometry)
        assert np.isfinite(grads).all()
    np.testing.assert_allclose(refine_geometry(geometry, jnp.zeros(5)), geometry, atol=1e-7)


def test_refinement_is_the_logit_form():
    rng = np.random.default_rng(1)
    geometry = rng.uniform(0.05, 0.95, (20, 5))
    delta = rng.normal(size=(20, 5))
    sigma = 1 / (1 + np.exp(-(np.log(geometry / (1 - geometry)) + delta)))[:, :2]
    odds = np.log((1 + geometry) / (1 - geometry)) + delta
    rest = (2 / (1 + np.exp(-odds)) - 1)[:, 2:]
    expected = np.concatenate([sigma, rest], axis=-1)
    np.testing.assert_allclose(refine_geometry(geometry, delta), expected, atol=1e-6)


def _nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def _published_order(tensors, golden_dir):
    """The release's order of parameters: a full model's, less the keys that the small one lacks."""
    full = json.loads((golden_dir / "parameter_shapes.json").read_text())["M128"]
    order = [key for key in full if key in tensors]
    assert set(order) == set(tensors)
    return order
