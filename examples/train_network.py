# SPDX-License-Identifier: Apache-2.0
"""Train the network that fold_network.py folds, and export it with its BatchNorms: digits.onnx.

    python examples/train_network.py [where to write]

It has one of each kind of place that a BatchNorm has in today's networks.  Wants PyTorch; one thread and a fixed seed
make the same file each time on the same kind of processor.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import onnx
import torch
from fold_network import MODEL, SEEN, digits
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS, BATCH, RATE = 60, 64, 2e-2


class Scale(nn.Module):  # type: ignore[misc]
    """Pixels from 0 to 16 to 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 16


class Sum(nn.Module):  # type: ignore[misc]
    """Branches on the same input, added."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.children())
        return sum(others, start=first)


def chain(**layers: nn.Module) -> nn.Module:
    """One after the other; the names become those of the exported nodes."""
    return nn.Sequential(OrderedDict(layers))


def conv(c_in: int, c_out: int, size: int, **how: int) -> nn.Module:
    return nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=False, **how)


def conv_norm(c_in: int, c_out: int, size: int, **how: int) -> nn.Module:
    return chain(conv=conv(c_in, c_out, size, **how), norm=nn.BatchNorm2d(c_out))


def norm_relu_conv(c: int) -> nn.Module:
    return chain(norm=nn.BatchNorm2d(c), relu=nn.ReLU(), conv=conv(c, c, 3))


def network() -> nn.Module:
    """(n, 1, 8, 8) to (n, 10)."""
    return chain(
        scale=Scale(),
        stem=chain(full=conv_norm(1, 16, 3), act=nn.Hardswish()),
        repvgg=chain(
            sum=Sum(full=conv_norm(16, 16, 3), point=conv_norm(16, 16, 1), norm=nn.BatchNorm2d(16)), act=nn.ReLU()
        ),
        separable=chain(
            depth=conv_norm(16, 16, 3, groups=16, stride=2), act=nn.Hardswish(), point=conv_norm(16, 32, 1)
        ),
        preact=Sum(same=nn.Identity(), body=chain(first=norm_relu_conv(32), second=norm_relu_conv(32))),
        pool=chain(mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()),
        hidden=chain(linear=nn.Linear(32, 32, bias=False), norm=nn.BatchNorm1d(32), act=nn.ReLU()),
        scores=nn.Linear(32, 10),
    )


def moved(images: Tensor) -> Tensor:
    """By up to a pixel, with zeros at the edges."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(model: nn.Module, images: Tensor, shown: Tensor) -> None:
    """SGD with momentum and one cycle of the rate."""
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5 * RATE, steps)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(model(moved(images[chosen])), shown[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()


def export(model: nn.Module, path: Path) -> None:
    """With the BatchNorms: TrainingMode.PRESERVE keeps the exporter from folding those that it can."""
    image = torch.zeros(1, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter, the only one that keeps them
        torch.onnx.export(
            model.eval(), (image,), path, dynamo=False, opset_version=17, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"], output_names=["scores"],
            dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
        )  # fmt: skip
    made = onnx.load(path)
    for node in made.graph.node:
        node.doc_string = ""  # of lines of code, by their paths
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    images, shown = map(torch.from_numpy, digits())
    model = network()
    train(model, images[:SEEN], shown[:SEEN].long())
    model.eval()
    with torch.no_grad():
        right = (model(images[SEEN:]).argmax(1) == shown[SEEN:]).numpy()
    export(model, path)
    print(f"{right.mean():.1%} of {len(right)} unseen digits are read right")
    print(f"written: {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
