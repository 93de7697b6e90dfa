"""Gradients in PyTorch of weights and samples that bench/train-agreement.mjs wrote: folder, network, batch size."""
import json
import sys
from pathlib import Path

import numpy
import torch

from torch_networks import NETWORKS, linear_columns, loss_of, ordered_parameters, sample

folder, name, batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
build, shape = NETWORKS[name]
model = build()
values = numpy.fromfile(folder / "weights.bin", dtype="<f4")
at = 0
columns = linear_columns(model)
turned = [id(parameter) in columns for parameter in ordered_parameters(model)]
for parameter, turn in zip(ordered_parameters(model), turned):
    part = values[at : at + parameter.numel()]
    part = part.reshape(parameter.shape[::-1]).T if turn else part.reshape(parameter.shape)
    parameter.data = torch.from_numpy(part.copy())
    at += parameter.numel()
assert at == len(values), f"{len(values)} weights for {at} parameters"
x, y = sample(name, batch, numpy.fromfile(folder / "samples.bin", dtype="<f4"))
losses = {}
for precision, suffix in ((torch.float32, "32"), (torch.float64, "64")):
    model = model.to(precision)
    model.zero_grad()
    loss = loss_of(model, x.to(precision) if x.is_floating_point() else x, y)
    loss.backward()
    parts = zip(ordered_parameters(model), turned)
    gradients = numpy.concatenate([(p.grad.T if turn else p.grad).numpy().ravel() for p, turn in parts])
    gradients.astype("<f4").tofile(folder / f"gradients{suffix}.bin")
    losses[suffix] = loss.item()
print(json.dumps({"loss": losses["64"], "torch": torch.__version__}))
