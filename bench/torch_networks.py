"""The networks of the training benchmarks in PyTorch: name to (build, shape of one sample)."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            x = nn.functional.pad(x, (0, 0, 0, 0, before, self.extra - before))
        return torch.relu(x + y)


def conv_bn_relu(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def resnet20():
    layers, channels = conv_bn_relu(3, 16), 16
    for stage in range(3):
        for block in range(3):
            outputs = 16 * 2**stage
            layers.append(Block(channels, outputs, 2 if stage and not block else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        wide = inputs * expand
        layers = [*conv_bn_relu6(inputs, wide, 1)] if expand > 1 else []
        layers += conv_bn_relu6(wide, wide, 3, stride, wide)
        self.body = nn.Sequential(*layers, nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.body(x) + x if self.shortcut else self.body(x)


def conv_bn_relu6(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]


def mobilenet_v2():
    """On 32x32 images: the first two strides of the network for large images are left out."""
    layers, channels = conv_bn_relu6(3, 32, 3), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, outputs, blocks, stride in stages:
        for block in range(blocks):
            layers.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expand))
            channels = outputs
    return nn.Sequential(
        *layers, *conv_bn_relu6(channels, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)
    )


class TransformerBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, length, width = x.shape
        y = self.norm1(x)
        q, k, v = (
            part(y).view(n, length, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(n, length, width))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary=65, length=128, width=128, heads=4, layers=4):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T

    def ordered(self):
        """Parameters in pare's order: the tables first."""
        rest = [p for p in self.parameters() if p is not self.tokens.weight and p is not self.positions]
        return [self.tokens.weight, self.positions, *rest]


def ordered_parameters(model):
    return model.ordered() if hasattr(model, "ordered") else list(model.parameters())


def linear_columns(model):
    """Weights that pare stores the other way round, (inputs, outputs)."""
    return {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} if isinstance(model, Gpt) else set()


def sample(name, batch, values=None):
    """Samples and labels: the given numbers or random images; tokens that follow a fixed pattern, and those after them."""
    shape = NETWORKS[name][1]
    if name == "gpt-nano":
        ids = (torch.arange(batch * (shape[0] + 1)) * 7 % 65).reshape(batch, shape[0] + 1)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    images = torch.rand(batch, *shape) if values is None else torch.from_numpy(values).reshape(batch, *shape)
    return images, torch.arange(batch) % 10


def loss_of(model, x, y):
    scores = model(x)
    return nn.functional.cross_entropy(scores.flatten(0, -2), y.flatten())


NETWORKS = {
    "lenet-300-100": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        ),
        (1, 28, 28),
    ),
    "lenet-5": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        ),
        (1, 28, 28),
    ),
    "small-cnn": (
        lambda: nn.Sequential(
            *conv_bn_relu(1, 16), nn.MaxPool2d(2), *conv_bn_relu(16, 32), *conv_bn_relu(32, 32), nn.MaxPool2d(2),
            *conv_bn_relu(32, 64), *conv_bn_relu(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        ),
        (1, 28, 28),
    ),
    "resnet-20": (resnet20, (3, 32, 32)),
    "mobilenet-v2": (mobilenet_v2, (3, 32, 32)),
    "gpt-nano": (Gpt, (128,)),
}
