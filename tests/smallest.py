"""The smallest tokenizer: for what does not depend on size, in programs of few operations.

Compiling takes as long as a program has operations; sizes count for little.
"""

SMALLEST = {
    "model.image_size": 16,
    "model.render_size": 8,
    "model.encoder.channels": 4,
    "model.encoder.norm_groups": 2,
    "model.encoder.width": 8,
    "model.encoder.depth": 1,
    "model.encoder.num_heads": 1,
    "model.decoder.channels": 4,
    "model.decoder.multipliers": (1, 1),
    "model.decoder.norm_groups": 2,
    "partition.num_tokens": 4,
    "gan.discriminator.num_layers": 1,
}
