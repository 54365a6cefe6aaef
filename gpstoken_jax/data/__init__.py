"""Images in, batches out: folders or TFDS data sets, read with Grain; TensorFlow is not needed."""

from gpstoken_jax.data.examples import Example, ImageSource
from gpstoken_jax.data.loader import EvalBatches, TrainBatches, eval_batches, train_batches
from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.data.sources import DataSet, Subset, data_paths, name_data, open_source

__all__ = [
    "DataSet",
    "EvalBatches",
    "Example",
    "ImageSource",
    "Subset",
    "TrainBatches",
    "data_paths",
    "eval_batches",
    "name_data",
    "open_source",
    "resize_and_crop",
    "train_batches",
]
