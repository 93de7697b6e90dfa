"""Gradients in PyTorch of weights and samples that bench/train-agreement.mjs wrote: folder, network, batch size."""
import json
import sys
from pathlib import Path

import numpy
import torch
from torch import nn

from torch_networks import NETWORKS

folder, name, batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
build, shape = NETWORKS[name]
model = build()
values = numpy.fromfile(folder / "weights.bin", dtype="<f4")
at = 0
for parameter in model.parameters():
    part = values[at : at + parameter.numel()].reshape(parameter.shape)
    parameter.data = torch.from_numpy(part.copy())
    at += parameter.numel()
assert at == len(values), f"{len(values)} weights for {at} parameters"
x = torch.from_numpy(numpy.fromfile(folder / "samples.bin", dtype="<f4").reshape(batch, *shape).copy())
losses = {}
for precision, suffix in ((torch.float32, "32"), (torch.float64, "64")):
    model = model.to(precision)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x.to(precision)), torch.arange(batch) % 10)
    loss.backward()
    gradients = numpy.concatenate([parameter.grad.numpy().ravel() for parameter in model.parameters()])
    gradients.astype("<f4").tofile(folder / f"gradients{suffix}.bin")
    losses[suffix] = loss.item()
print(json.dumps({"loss": losses["64"], "torch": torch.__version__}))
