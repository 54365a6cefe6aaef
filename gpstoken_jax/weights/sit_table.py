"""The published PyTorch weights of the generator and ours: one table, read in both directions."""

import jax
from ml_collections import ConfigDict

from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.weights.table import Parameter, WeightTable, layer, stacked


def weight_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the SiT that the model section of a config describes.

    ``positions`` is in every file; with a condition no computation uses it.
    """
    model = create_sit(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))["params"]
    return WeightTable(_entries(config), shapes, {})


def _entries(config: ConfigDict) -> list[Parameter]:
    table = [
        Parameter(("positions", "table"), ("pos_embed",), "row"),
        Parameter(("label", "embedding"), ("y_embedder.embedding_table.weight",), "vector"),
        *layer(("token_in",), "x_embedder.proj", "pointwise"),
        *layer(("time", "dense1"), "t_embedder.mlp.0", "dense"),
        *layer(("time", "dense2"), "t_embedder.mlp.2", "dense"),
    ]
    if config.cond_channels:
        table += layer(("condition", "dense1"), "cond_embedder.0", "dense")
        table += layer(("condition", "dense2"), "cond_embedder.2", "dense")
    blocks = [f"blocks.{k}" for k in range(config.depth)]
    table += [
        stacked(("blocks", name, leaf), blocks, f"{key}.{suffix}", kind, axis=0)
        for name, key in (
            ("modulation", "adaLN_modulation.1"),
            ("qkv", "attn.qkv"),
            ("attention_out", "attn.proj"),
            ("mlp1", "mlp.fc1"),
            ("mlp2", "mlp.fc2"),
        )
        for leaf, suffix, kind in (("kernel", "weight", "dense"), ("bias", "bias", "vector"))
    ]
    table += layer(("final", "modulation"), "final_layer.adaLN_modulation.1", "dense")
    return table + layer(("final", "token_out"), "final_layer.linear", "dense")
