"""Writes torch_files/: what torch.save makes of small tensors. Run with PyTorch 2.13, once."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

folder = Path(__file__).parent / "torch_files"
folder.mkdir(exist_ok=True)


def numbers(*shape, dtype=torch.float32):
    """0, 1/4, 2/4, ... in the given shape; exact in every float type."""
    return (torch.arange(int(np.prod(shape))) / 4).reshape(shape).to(dtype)


module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, (1, 2)), torch.nn.BatchNorm2d(3))
with torch.no_grad():
    for tensor in module.state_dict().values():
        tensor.copy_(numbers(*tensor.shape, dtype=tensor.dtype))
shared = numbers(4, 6)
values = OrderedDict(
    double=numbers(2, 3, dtype=torch.float64),
    half=numbers(2, 3, dtype=torch.float16),
    brain=numbers(2, 3, dtype=torch.bfloat16),
    long=torch.arange(-2, 4),
    int=torch.arange(-2, 4, dtype=torch.int32),
    short=torch.arange(-2, 4, dtype=torch.int16),
    byte=torch.arange(4, dtype=torch.uint8),
    char=torch.arange(-2, 2, dtype=torch.int8),
    bool=torch.tensor([True, False]),
    transposed=shared.T,
    part=shared[1:3, ::2],
    scalar=torch.tensor(2.5),
    nothing=torch.zeros(0, 3),
    expanded=torch.tensor([1.5]).expand(2, 3),
    channels_last=numbers(1, 2, 2, 2).to(memory_format=torch.channels_last),
    parameter=torch.nn.Parameter(numbers(2)),
)
nested = {"epoch": 3, "note": "done", "state_dict": module.state_dict(), "list": [numbers(2), None]}
for name, value in {"module": module.state_dict(), "kinds": values, "nested": nested}.items():
    torch.save(value, folder / f"{name}.pth")
    torch.save(value, folder / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(module, folder / "whole_module.pth")
torch.jit.script(module).save(folder / "torchscript.pt")

# Three updates of Adam, as the release trains its discriminator, and a fourth to be repeated.
torch.manual_seed(0)
widths = [3, 1, 2, 4, 8, 1]
layers = [torch.nn.Conv2d(3, 1, 4), torch.nn.LeakyReLU(0.2)]
for before, after in pairwise(widths[1:5]):
    convolution = torch.nn.Conv2d(before, after, 4, bias=False)
    layers += [convolution, torch.nn.BatchNorm2d(after), torch.nn.LeakyReLU(0.2)]
network = torch.nn.Module()
network.main = torch.nn.Sequential(*layers, torch.nn.Conv2d(8, 1, 4))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.9))
for step in range(4):
    gradients = {name: torch.randn(p.shape) for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        parameter.grad = gradients[name]
    if step == 3:
        torch.save(optimizer.state_dict(), folder / "adam_state.bin")
        start = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer.step()
fourth = {"before": start, "gradients": gradients, "after": network.state_dict()}
torch.save(fourth, folder / "adam_step.pth")
