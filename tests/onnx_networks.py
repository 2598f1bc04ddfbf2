# SPDX-License-Identifier: Apache-2.0
"""Small networks of the usual families in PyTorch, with BatchNorms of random statistics and gammas of both signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


class Dense(nn.Module):
    """DenseNet: what each layer makes goes beside all that was made before."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        point, conv = nn.Conv2d(i, 4 * growth, 1, bias=False), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)
        self.body = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), point, nn.BatchNorm2d(4 * growth), nn.ReLU(), conv)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class LinearBottleneck(nn.Module):
    """MobileNetV2: no squeeze, ReLU6."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.adds, c = i == o and stride == 1, 6 * i
        self.body = nn.Sequential(
            norm_conv(i, c, 1, act=nn.ReLU6), norm_conv(c, c, 3, stride, c, nn.ReLU6), norm_conv(c, o, 1, act=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


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
    Network("MobileNetV2", lambda: head(norm_conv(3, 8), *(LinearBottleneck(8, 8, k) for k in (2, 1)), c=8), IMAGE, 0),
    Network("MobileNetV3", lambda: head(*mobile(nn.Hardswish), c=16), IMAGE, 0),
    Network("EfficientNet", lambda: head(*mobile(nn.SiLU), c=16), IMAGE, 0),
    # Of the three that see a residual stream, the last has gammas above 0 and folds both ways.
    Network("pre-activation", lambda: head(*pre_activation(), c=8), IMAGE, 2),
    # The norms that read all that was made before see it with other readers: those stay.
    Network("DenseNet", lambda: head(*densenet(), c=16), IMAGE, 6),
    Network("RepVGG", lambda: head(Branches(3, 8, 2), Branches(8, 8, 1), Branches(8, 8, 1), c=8), IMAGE, 0),
    Network("MobileOne", lambda: head(Branches(3, 8, 2, 4), Branches(8, 8, 1, 4), c=8), IMAGE, 0),
    Network("U-Net", UNet, IMAGE, 0),
    Network("3-D", lambda: nn.Sequential(*volume()), (2, 2, 8, 8, 8), 0),
    Network("ConvNeXt", lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNeXt(8), ConvNeXt(8)), IMAGE, 0),
    Network("ViT", lambda: nn.Sequential(*transformer(16)), IMAGE, 0),
    Network("separable", lambda: nn.Sequential(*separable()), (2, 8, 40), 0),
    Network("LSTM", Recurrent, (2, 8, 20), 0),
]


def mobile(act: Callable[[], nn.Module]) -> list[nn.Module]:
    return [norm_conv(3, 8, act=act), InvertedResidual(8, 16, 2, act), InvertedResidual(16, 16, 1, act)]


def pre_activation() -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3, 1, 1), PreActivation(8), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU()]


def volume() -> list[nn.Module]:
    first = [nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)]
    return [*first, nn.Conv3d(4, 4, 3), nn.BatchNorm3d(4)]


def densenet() -> list[nn.Module]:
    first = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    change = [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2)]
    return [*first, Dense(8, 4), Dense(12, 4), *change, Dense(8, 4), Dense(12, 4), nn.BatchNorm2d(16), nn.ReLU()]


def separable() -> list[nn.Module]:
    """In one dimension, as keyword spotters and EEG networks have it."""
    layers: list[nn.Module] = []
    for i, o, dilation in ((8, 16, 1), (16, 16, 2), (16, 8, 4)):
        layers += [nn.Conv1d(i, i, 5, padding=2 * dilation, dilation=dilation, groups=i, bias=False)]
        layers += [nn.Conv1d(i, o, 1, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
    return [*layers, nn.AvgPool1d(2), nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4)]


def transformer(c: int) -> list[nn.Module]:
    patches = [nn.Conv2d(3, c, 8, 8), nn.Flatten(2), Transposed()]
    return [*patches, Attention(c, 2), Attention(c, 2), nn.LayerNorm(c), nn.Linear(c, 5)]


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)
