"""The GAN against the published training code, through the gradients that training takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.configs import common
from gpstoken_jax.features.lpips import LPIPSWeights
from gpstoken_jax.losses.adversarial import (
    BatchNorm,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    init_discriminator,
)
from gpstoken_jax.training.gradients import (
    AUTOENCODER,
    BOTH,
    DISCRIMINATOR,
    WITHOUT_GAN,
    TokenizerLoss,
)
from gpstoken_jax.training.state import DiscriminatorState
from tests.recipe_weights import SEEDS, recipe_tensor

WIDTHS = (3, 64, 128, 256, 512, 1)
CONVOLUTIONS = (0, 2, 5, 8, 11)  # numbers of the layers in the PyTorch module
NORMS = (3, 6, 9)
VGG_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def _disc(name, shape):
    return jnp.asarray(recipe_tensor(SEEDS["disc"], f"main.{name}", shape))


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "adversarial.npz")


@pytest.fixture(scope="module")
def discriminator():
    """The published discriminator with recipe weights."""
    params, stats = {}, {}
    for i, number in enumerate(CONVOLUTIONS):
        kernel = _disc(f"{number}.weight", (WIDTHS[i + 1], WIDTHS[i], 4, 4))
        params[f"conv_{i}"] = {"kernel": kernel.transpose(2, 3, 1, 0)}
    for i in (0, 4):
        params[f"conv_{i}"]["bias"] = _disc(f"{CONVOLUTIONS[i]}.bias", (WIDTHS[i + 1],))
    for i, number in enumerate(NORMS, 1):
        shape = (WIDTHS[i + 1],)
        names = {"scale": "weight", "bias": "bias"}
        params[f"norm_{i}"] = {
            ours: _disc(f"{number}.{name}", shape) for ours, name in names.items()
        }
        stats[f"norm_{i}"] = {
            name: _disc(f"{number}.running_{name}", shape) for name in ("mean", "var")
        }
    return DiscriminatorState(params, stats, None)


@pytest.fixture(scope="module")
def frozen():
    """LPIPS with recipe weights."""

    def tensor(key, shape):
        return jnp.asarray(recipe_tensor(SEEDS["lpips"], key, shape))

    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    stages = (1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5)
    backbone, counts = {}, dict.fromkeys(stages, 0)
    for i, (stage, layer) in enumerate(zip(stages, VGG_LAYERS, strict=True)):
        counts[stage] += 1
        key, shape = f"net.slice{stage}.{layer}", (widths[i + 1], widths[i], 3, 3)
        backbone[f"conv{stage}_{counts[stage]}"] = {
            "kernel": tensor(f"{key}.weight", shape).transpose(2, 3, 1, 0),
            "bias": tensor(f"{key}.bias", shape[:1]),
        }
    heads = [
        tensor(f"lin{i}.model.1.weight", (1, width, 1, 1)).ravel()
        for i, width in enumerate((64, 128, 256, 512, 512))
    ]
    return {"lpips": LPIPSWeights(backbone, tuple(heads))}


@pytest.fixture(scope="module")
def gradients(golden, discriminator, frozen):
    """Gradients of each kind of step; a convolution stands for the autoencoder."""
    loss = TokenizerLoss(common.get_config(), PatchDiscriminator(), None, lambda p: p["kernel"])
    images, features = golden["images"], golden["features"]

    def reconstruct(params):
        dimensions = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(
            features, params["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
        )
        return convolved + golden["bias"] + params["offset"]

    params = {"kernel": golden["kernel"], "offset": jnp.zeros_like(images)}

    def autoencode(params):
        return reconstruct(params), jnp.zeros((1, 1, 21))

    updates = (WITHOUT_GAN, AUTOENCODER, DISCRIMINATOR, BOTH)

    @jax.jit
    def all_kinds(*arguments):
        key = jax.random.key(0)
        return [loss.gradients(u, autoencode, *arguments, key) for u in updates]

    measured = all_kinds(params, discriminator, images, frozen)
    return {"reconstructions": reconstruct(params), **dict(zip(updates, measured, strict=True))}


def _close(actual, expected, tolerance=2e-4):
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def test_logits_and_running_statistics(golden, discriminator, gradients):
    network, images = PatchDiscriminator(), golden["images"]
    fresh = {"params": discriminator.params, "batch_stats": discriminator.batch_stats}
    variables = dict(fresh)
    for name, x in (("real", images), ("fake", gradients["reconstructions"])):
        logits = network.apply(fresh, x, train=False)
        np.testing.assert_allclose(logits, golden[f"eval_logits_{name}"], atol=2e-5)
        logits, changed = network.apply(variables, x, mutable=["batch_stats"])
        np.testing.assert_allclose(logits, golden[f"train_logits_{name}"], atol=5e-5)
        variables |= changed
    for i, number in enumerate(NORMS, 1):
        for name in ("mean", "var"):
            expected = golden[f"after/main.{number}.running_{name}"]
            for stats in (
                variables["batch_stats"],
                gradients[DISCRIMINATOR].batch_stats,
                gradients[BOTH].batch_stats,
            ):
                np.testing.assert_allclose(stats[f"norm_{i}"][name], expected, rtol=1e-5, atol=2e-6)


def test_losses_of_logits(golden):
    real, fake = golden["train_logits_real"], golden["train_logits_fake"]
    losses = [discriminator_loss(real, fake, kind) for kind in ("hinge", "vanilla")]
    np.testing.assert_allclose([*losses, generator_loss(fake)], golden["disc_losses"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"gan\.loss"):
        discriminator_loss(real, fake, "wasserstein")


@pytest.mark.parametrize(
    ("update", "case"), [(WITHOUT_GAN, "train_99"), (AUTOENCODER, "train_100"), (BOTH, "train_100")]
)
def test_the_autoencoders_loss_and_gradient(golden, gradients, update, case):
    """Before and after the start; the log is total, quantiser, rec, rec, LPIPS, weight, on, GAN."""
    measured, log = gradients[update], golden[f"{case}/log"]
    metrics = measured.metrics
    assert metrics["loss"] == pytest.approx(log[0], rel=1e-5)
    assert metrics["mse"] + metrics["lpips"] == pytest.approx(log[2], rel=1e-5)
    assert metrics["lpips"] == pytest.approx(log[4], rel=1e-5)
    if log[6]:
        assert metrics["gan_weight"] == pytest.approx(log[5], rel=2e-4)
        assert metrics["gan"] == pytest.approx(log[7], abs=1e-5)
    _close(measured.autoencoder["kernel"], golden[f"{case}/grad_kernel"])
    of_images = measured.autoencoder["offset"][:, ::2, ::2]
    _close(of_images, golden[f"{case}/grad_images_sub2"], 1e-3)


@pytest.mark.parametrize("update", [DISCRIMINATOR, BOTH])
def test_the_discriminators_loss_and_gradient(golden, gradients, update):
    measured, log = gradients[update], golden["discriminator/log"]
    names = ("discriminator", "logits_real", "logits_fake")
    np.testing.assert_allclose([measured.metrics[n] for n in names], log, rtol=1e-4, atol=1e-6)
    grads = measured.discriminator
    _close(grads["conv_0"]["kernel"], golden["discriminator/grad_conv_0"])
    order = [("conv_0", "kernel"), ("conv_0", "bias")]
    for i in (1, 2, 3):
        order += [(f"conv_{i}", "kernel"), (f"norm_{i}", "scale"), (f"norm_{i}", "bias")]
    order += [("conv_4", "kernel"), ("conv_4", "bias")]
    norms = [np.linalg.norm(grads[layer][name]) for layer, name in order]
    np.testing.assert_allclose(norms, golden["discriminator/grad_norms"], rtol=2e-4)


def test_steps_compute_only_what_they_update(gradients):
    assert gradients[WITHOUT_GAN].discriminator is None
    assert gradients[AUTOENCODER].discriminator is None
    assert gradients[DISCRIMINATOR].autoencoder is None
    assert set(gradients[WITHOUT_GAN].metrics) == {"loss", "mse", "lpips"}


def test_the_adaptive_weight_is_capped_and_a_constant(golden):
    nll, gan = golden["adaptive"][2:4]
    assert 0.3 * adaptive_weight(nll, gan) == pytest.approx(golden["adaptive"][4], rel=1e-6)
    assert adaptive_weight(jnp.float32(1e9), jnp.float32(0)) == 1e4
    assert jax.grad(lambda x: adaptive_weight(x, jnp.float32(2)))(jnp.float32(1)) == 0


def test_fresh_weights_are_drawn_as_published():
    """Means and deviations of the release's own initialisation, which its manifest lists."""
    variables = jax.jit(lambda key: init_discriminator(PatchDiscriminator(), key))(
        jax.random.key(0)
    )
    params = variables["params"]
    assert params["conv_2"]["kernel"].std() == pytest.approx(0.02, rel=0.01)
    assert abs(params["conv_2"]["kernel"].mean()) < 1e-3
    assert params["norm_3"]["scale"].std() == pytest.approx(0.02, rel=0.2)
    assert params["norm_3"]["scale"].mean() == pytest.approx(1, abs=0.005)
    assert abs(params["conv_0"]["bias"]).max() <= 48**-0.5
    assert params["conv_0"]["bias"].std() == pytest.approx(48**-0.5 / 3**0.5, rel=0.3)
    assert not params["norm_1"]["bias"].any() and "bias" not in params["conv_1"]
    assert not variables["batch_stats"]["norm_1"]["mean"].any()
    assert (variables["batch_stats"]["norm_1"]["var"] == 1).all()
    assert sum(x.size for x in jax.tree.leaves(params)) == 2_765_633


def test_group_norm_has_no_running_statistics():
    network = PatchDiscriminator(channels=4, num_layers=1, norm="group", norm_groups=2)
    variables = init_discriminator(network, jax.random.key(0))
    assert set(variables) == {"params"}
    assert network.apply(variables, jnp.ones((2, 16, 16, 3))).shape == (2, 6, 6, 1)
    with pytest.raises(ValueError, match=r"gan\.discriminator\.norm"):
        init_discriminator(network.clone(norm="layer"), jax.random.key(0))


def test_batch_statistics_are_those_of_all_devices():
    """Under a named axis each half of a batch is normalised as the whole batch is."""
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 5)) * 3 + 1
    alone, together = BatchNorm(), BatchNorm(axis_name="data")
    variables = alone.init(jax.random.key(1), x, train=False)

    def apply(layer, x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    expected, stats = apply(alone, x)
    halves, half_stats = jax.vmap(lambda x: apply(together, x), axis_name="data")(
        x.reshape(2, 4, 3, 3, 5)
    )
    np.testing.assert_allclose(halves.reshape(x.shape), expected, atol=1e-5)
    for half, whole in zip(jax.tree.leaves(half_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(half[0], whole, rtol=1e-5)
