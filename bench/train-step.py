"""The training steps of bench/train-step.mjs in PyTorch: batch, steps, threads, network; prints seconds and peak memory."""
import json
import resource
import statistics
import sys
import time

import torch

from torch_networks import NETWORKS, loss_of, sample

batch, steps, threads, name = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(threads)
torch.manual_seed(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = NETWORKS[name][0]()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
x, y = sample(name, batch)
seconds = []
for _ in range(steps + 3):
    start = time.perf_counter()
    optimizer.zero_grad()
    loss_of(model, x, y).backward()
    optimizer.step()
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"median": statistics.median(seconds[3:]), "min": min(seconds[3:]), "peakBytes": peak, "emptyBytes": before}))
