"""Writes set_metrics.npz: metrics of sets of features by torch-fidelity. Run with PyTorch, once.

python tests/golden/make_set_metrics.py      # torch 2.13, torch-fidelity 0.4.0
"""

from pathlib import Path

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

rng = np.random.default_rng(0)
mixing = rng.normal(size=(24, 24))
real = (rng.normal(size=(300, 24)) @ mixing).astype(np.float32)
made = (0.8 * rng.normal(size=(250, 24)) @ mixing + 0.5).astype(np.float32)
logits = (3 * rng.normal(size=(200, 100))).astype(np.float16)

numbers = {}
first, second = (fid_features_to_statistics(torch.from_numpy(x)) for x in (real, made))
numbers["frechet"] = fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
torch_logits = torch.from_numpy(logits.astype(np.float32))
for splits in (1, 4):
    found = isc_features_to_metric(torch_logits, splits=splits, shuffle=False)
    numbers[f"inception_score_{splits}"] = found["inception_score_mean"]
found = prc_features_to_metric(
    torch.from_numpy(made),
    torch.from_numpy(real),
    prc_neighborhood=3,
    prc_batch_size=64,
    save_cpu_ram=False,
    verbose=False,
)  # fmt: skip - what was made comes first
numbers |= {name: found[name] for name in ("precision", "recall")}
print(numbers)
np.savez(
    Path(__file__).parent / "set_metrics.npz",
    real=real,
    made=made,
    logits=logits,
    **{name: np.float64(value) for name, value in numbers.items()},
)
