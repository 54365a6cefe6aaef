"""Writes a tokenizer as StableHLO, which runs without this package: encode, decode, weights.

    gpstoken export --checkpoint=runs/m128 --output=served

How to load and serve it: docs/serving.md.
"""

import importlib.util
import json

from absl import flags

from gpstoken_jax.programs import cli

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Whatever from_pretrained takes: a run, a weight file.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "A directory for the files.", required=True)
cli.allow_buckets("checkpoint", "output")
NUM_TOKENS = flags.DEFINE_integer(
    "num_tokens", None, "Tokens that encode makes; the config's by default.", lower_bound=1
)
PLATFORMS = flags.DEFINE_multi_enum(
    "platform", ["cpu", "cuda"], ["cpu", "cuda", "rocm", "tpu"], "Where it shall run; repeatable."
)
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema_params", ["ema_params", "params"], "Averaged weights, or the last ones."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what was made of other weights.")


def main() -> None:
    """Exports the tokenizer that the flags name."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("jax.export needs flatbuffers: pip install 'gpstoken_jax[export]'")
    import jax
    import numpy as np
    from safetensors.numpy import save

    from gpstoken_jax.runtime.checkpoint import params_checksum
    from gpstoken_jax.runtime.outputs import open_output
    from gpstoken_jax.runtime.text import say
    from gpstoken_jax.tokenizer import Tokenizer
    from gpstoken_jax.weights.stablehlo import export_functions, named_weights

    tokenizer = Tokenizer.from_pretrained(CHECKPOINT.value, weights=WEIGHTS.value)
    config = tokenizer.config
    num_tokens = NUM_TOKENS.value or config.partition.num_tokens
    made_from = {
        "weights_crc32": params_checksum(tokenizer.params),
        "model": config.model.to_dict(),
        "partition": config.partition.to_dict() | {"num_tokens": num_tokens},
        "platforms": PLATFORMS.value,
        "jax": jax.__version__,
    }
    with open_output(OUTPUT.value, "an export", made_from, overwrite=OVERWRITE.value) as output:
        if output.complete:
            say(f"nothing has changed since {OUTPUT.value} was made")
            return
        functions = export_functions(
            tokenizer.model, tokenizer.params, config.partition, num_tokens, PLATFORMS.value
        )
        for name, function in functions.items():
            output.write(f"{name}.stablehlo", bytes(function.serialize()))
            given, made = function.in_avals[-1], function.out_avals[0]
            say(f"{name}: {given.str_short()} to {made.str_short()}")
        weights = {name: np.asarray(w) for name, w in named_weights(tokenizer.params).items()}
        output.write("weights.safetensors", save(weights))
        output.write("export.json", json.dumps(made_from, indent=2) + "\n")
        output.finish({})
        say(f"{OUTPUT.value}: see docs/serving.md")


if __name__ == "__main__":
    cli.run(main)
