"""The training steps of bench/train-step.mjs in PyTorch: prints one JSON line per network with the median seconds of a step."""
import json
import statistics
import sys
import time

import torch
from torch import nn

from torch_networks import NETWORKS

batch, steps = int(sys.argv[1]), int(sys.argv[2])


names = sys.argv[4:]
for name in names:
    build, shape = NETWORKS[name]
    torch.set_num_threads(int(sys.argv[3]))
    torch.manual_seed(1)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.rand(batch, *shape), torch.arange(batch) % 10
    seconds = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"name": name, "median": statistics.median(seconds[3:]), "min": min(seconds[3:])}), flush=True)
