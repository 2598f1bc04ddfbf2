# SPDX-License-Identifier: Apache-2.0
"""Small networks of the usual families in PyTorch, with BatchNorms of random statistics and gammas of both signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_conv(
    i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = nn.ReLU
) -> nn.Module:
    after = [act()] if act is not None else []
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), *after)


class Bottleneck(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm_conv(i, o // 4, 1), norm_conv(o // 4, o // 4, 3, stride), norm_conv(o // 4, o, 1, act=None)
        )
        self.skip = norm_conv(i, o, 1, stride, act=None) if i != o or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, stride: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.adds = i == o and stride == 1
        c = 4 * i
        self.body = nn.Sequential(
            norm_conv(i, c, 1, act=act),
            norm_conv(c, c, 3, stride, c, act),
            SqueezeExcite(c),
            norm_conv(c, o, 1, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class PreActivation(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(c, c, 3, 1, 1, bias=False) for _ in range(2)]
        self.body = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), conv[0], nn.BatchNorm2d(c), nn.ReLU(), conv[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Branches(nn.Module):
    """RepVGG with one 3x3 branch, MobileOne with several."""

    def __init__(self, i: int, o: int, stride: int, count: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList([norm_conv(i, o, 3, stride, act=None) for _ in range(count)])
        self.point = norm_conv(i, o, 1, stride, act=None)
        self.identity = nn.BatchNorm2d(i) if i == o and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.point(x)
        for conv in self.convs:
            y = y + conv(x)
        return F.relu(y if self.identity is None else y + self.identity(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = norm_conv(3, 8), norm_conv(8, 16)
        self.up, self.norm = nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8)
        self.out = nn.Sequential(norm_conv(16, 8), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        b = F.relu(self.norm(self.up(self.deep(F.max_pool2d(a, 2)))))
        return self.out(torch.cat([a, b], 1))


class ConvNeXt(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.scale = nn.Parameter(torch.rand(c) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.norms = nn.ModuleList([nn.LayerNorm(c), nn.LayerNorm(c)])
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.scale = nn.Parameter(torch.rand(c) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            self.qkv(self.norms[0](x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1)
        x = x + self.scale * self.out((weights @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norms[1](x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv1d(8, 16, 3, padding=1, groups=8, bias=False)
        self.front = nn.Sequential(conv, nn.BatchNorm1d(16), nn.ReLU(), nn.BatchNorm1d(16))
        self.lstm, self.norm, self.out = nn.LSTM(16, 12, batch_first=True), nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.front(x).transpose(1, 2))
        return self.out(self.norm(y[:, -1]))


class Network(NamedTuple):
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    left: int  # affine operations that have nowhere to go


def head(*layers: nn.Module, c: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5))


IMAGE = (2, 3, 32, 32)
NETWORKS = [
    Network("ResNet", lambda: head(norm_conv(3, 8, 7, 2), Bottleneck(8, 16, 2), Bottleneck(16, 16, 1), c=16), IMAGE, 0),
    Network("MobileNetV3", lambda: head(*mobile(nn.Hardswish), c=16), IMAGE, 0),
    Network("EfficientNet", lambda: head(*mobile(nn.SiLU), c=16), IMAGE, 0),
    # Of the three that see a residual stream, the last has gammas above 0 and folds both ways.
    Network("pre-activation", lambda: head(*pre_activation(), c=8), IMAGE, 2),
    Network("RepVGG", lambda: head(Branches(3, 8, 2), Branches(8, 8, 1), Branches(8, 8, 1), c=8), IMAGE, 0),
    Network("MobileOne", lambda: head(Branches(3, 8, 2, 4), Branches(8, 8, 1, 4), c=8), IMAGE, 0),
    Network("U-Net", UNet, IMAGE, 0),
    Network("3-D", lambda: nn.Sequential(*volume()), (2, 2, 8, 8, 8), 0),
    Network("ConvNeXt", lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNeXt(8), ConvNeXt(8)), IMAGE, 0),
    Network("ViT", lambda: nn.Sequential(*transformer(16)), IMAGE, 0),
    Network("LSTM", Recurrent, (2, 8, 20), 0),
]


def mobile(act: Callable[[], nn.Module]) -> list[nn.Module]:
    return [norm_conv(3, 8, act=act), InvertedResidual(8, 16, 2, act), InvertedResidual(16, 16, 1, act)]


def pre_activation() -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3, 1, 1), PreActivation(8), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU()]


def volume() -> list[nn.Module]:
    first = [nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)]
    return [*first, nn.Conv3d(4, 4, 3), nn.BatchNorm3d(4)]


def transformer(c: int) -> list[nn.Module]:
    patches = [nn.Conv2d(3, c, 8, 8), nn.Flatten(2), Transposed()]
    return [*patches, Attention(c, 2), Attention(c, 2), nn.LayerNorm(c), nn.Linear(c, 5)]


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def network(which: Network) -> nn.Module:
    torch.manual_seed(0)
    made = which.make()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            signs = torch.sign(torch.rand_like(module.weight) - 0.2)
            module.weight.data.uniform_(0.5, 1.5).mul_(signs)
            module.bias.data.normal_(0, 0.3)
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return made.eval()


def export(which: Network, path: Any) -> None:
    """With its BatchNorms."""
    torch.onnx.export(
        network(which), (torch.randn(which.shape),), path, dynamo=False, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
