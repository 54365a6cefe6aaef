"""RoIAlign: average a feature map over the bins of many boxes."""

from gpstoken_jax.model.roi_align.api import roi_align
from gpstoken_jax.model.roi_align.axis_weights import axis_weights

__all__ = ["axis_weights", "roi_align"]
