"""The part of ``bench_loader.py`` that needs torchvision; run by it, in an environment that has it.

Reads numbers of batches from its input, and answers each with the seconds that they took, by the
wall clock and by the processor's.
"""

import itertools
import sys
import time

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(256),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    images = datasets.ImageFolder(sys.argv[1], transforms.Compose(steps))
    loader = DataLoader(images, int(sys.argv[2]), shuffle=True, num_workers=0, drop_last=True)
    for line in sys.stdin:
        start = time.perf_counter(), time.process_time()
        for _ in itertools.islice(loader, int(line)):
            pass
        print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)


if __name__ == "__main__":
    main()
