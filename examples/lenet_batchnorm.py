# SPDX-License-Identifier: Apache-2.0
"""Train LeNet with BatchNorm after each layer, in NumPy and normcpu; then fold every BatchNorm away.

    python examples/lenet_batchnorm.py [epochs]

The network is LeNet-5's (two convolutions of 5 x 5, average pooling, three linear layers), with ReLUs, for 1,797
handwritten digits of 8 x 8 pixels.  Beside it the same network without BatchNorm, on the same batches.  What is
trained is then frozen, its BatchNorms go into the weights before them, and it reads the same digits, faster.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import normcpu
from normcpu.fold import Affine, conv_then_affine, linear_then_affine

Array = np.ndarray[Any, Any]
SEEN, BATCH, RATE, DECAY = 1400, 50, 5e-3, 0.05
PICTURE = Path(__file__).parents[1] / "build" / "lenet_losses.png"


class Layer:
    """weight and bias, if any, and their gradients after `backward`."""

    weight: Array | None = None
    bias: Array | None = None
    weight_grad: Array | None = None
    bias_grad: Array | None = None

    def draw(self, rng: np.random.Generator, inputs: int, *shape: int) -> None:
        """Uniform within 1/sqrt(inputs), as PyTorch begins."""
        reach = inputs**-0.5
        self.weight = rng.uniform(-reach, reach, shape).astype(np.float32)
        self.bias = np.zeros(shape[0], np.float32)


def fields(x: Array) -> Array:
    """The 5 x 5 around each pixel of x (n, c, h, w), with zeros beyond the edges: (n * h * w, c * 25)."""
    n, c, h, w = x.shape
    wide = np.zeros((n, c, h + 4, w + 4), x.dtype)
    wide[:, :, 2:-2, 2:-2] = x
    windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 25)


class Conv(Layer):
    """y (n, o, h, w) of x (n, i, h, w) with filters (o, i, 5, 5) and zeros around."""

    def __init__(self, rng: np.random.Generator, c_in: int, c_out: int) -> None:
        self.draw(rng, c_in * 25, c_out, c_in, 5, 5)

    def __call__(self, x: Array) -> Array:
        assert self.weight is not None
        n, _, h, w = x.shape
        self.fields = fields(x)
        y = self.fields @ self.weight.reshape(len(self.weight), -1).T + self.bias
        return np.ascontiguousarray(y.reshape(n, h, w, -1).transpose(0, 3, 1, 2))

    def backward(self, dy: Array) -> Array:
        """dx is dy under the filters turned by half a circle."""
        assert self.weight is not None
        n, o, h, w = dy.shape
        rows = dy.transpose(0, 2, 3, 1).reshape(n * h * w, o)
        self.weight_grad, self.bias_grad = (rows.T @ self.fields).reshape(self.weight.shape), rows.sum(0)
        turned = self.weight[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(o * 25, -1)
        return np.ascontiguousarray((fields(dy) @ turned).reshape(n, h, w, -1).transpose(0, 3, 1, 2))


class Linear(Layer):
    """y (n, o) of x (n, i, ...) with weights (o, i)."""

    def __init__(self, rng: np.random.Generator, c_in: int, c_out: int) -> None:
        self.draw(rng, c_in, c_out, c_in)

    def __call__(self, x: Array) -> Array:
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        assert self.weight is not None
        return np.asarray(self.x @ self.weight.T + self.bias)

    def backward(self, dy: Array) -> Array:
        self.weight_grad, self.bias_grad = dy.T @ self.x, dy.sum(0)
        return np.asarray(dy @ self.weight).reshape(self.shape)


class ReLU(Layer):
    def __call__(self, x: Array) -> Array:
        self.passed = x > 0
        return np.asarray(x * self.passed)

    def backward(self, dy: Array) -> Array:
        return np.asarray(dy * self.passed)


class Pool(Layer):
    """Means of 2 x 2."""

    def __call__(self, x: Array) -> Array:
        n, c, h, w = x.shape
        return np.ascontiguousarray(x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)))

    def backward(self, dy: Array) -> Array:
        return np.repeat(np.repeat(dy / 4, 2, 2), 2, 3)


Network = dict[str, Any]


def lenet(batch_norm: bool) -> Network:
    """(n, 1, 8, 8) to (n, 10); the same weights with and without BatchNorm."""
    rng = np.random.default_rng(0)
    layers: Network = {
        "conv1": Conv(rng, 1, 6), "norm1": normcpu.BatchNorm2d(6), "act1": ReLU(), "pool1": Pool(),
        "conv2": Conv(rng, 6, 16), "norm2": normcpu.BatchNorm2d(16), "act2": ReLU(), "pool2": Pool(),
        "linear1": Linear(rng, 64, 120), "norm3": normcpu.BatchNorm1d(120), "act3": ReLU(),
        "linear2": Linear(rng, 120, 84), "norm4": normcpu.BatchNorm1d(84), "act4": ReLU(),
        "linear3": Linear(rng, 84, 10),
    }  # fmt: skip
    return {name: layer for name, layer in layers.items() if batch_norm or not name.startswith("norm")}


def run(network: Network, x: Array) -> Array:
    for layer in network.values():
        x = layer(x)
    return x


def cross_entropy(scores: Array, digits: Array) -> tuple[float, Array]:
    """The mean loss and its gradient."""
    odds = np.exp(scores - scores.max(1, keepdims=True))
    chances = odds / odds.sum(1, keepdims=True)
    rows = np.arange(len(digits))
    loss = float(-np.log(chances[rows, digits]).mean())
    chances[rows, digits] -= 1
    return loss, chances / np.float32(len(digits))


def parameters(network: Network, what: str = "") -> dict[str, Array]:
    named = {f"{name}.{kind}": getattr(layer, kind + what, None)
             for name, layer in network.items() for kind in ("weight", "bias")}  # fmt: skip
    return {name: array for name, array in named.items() if array is not None}


def train_step(network: Network, optimizer: normcpu.AdamW, images: Array, digits: Array) -> float:
    loss, gradient = cross_entropy(run(network, images), digits)
    for layer in reversed(network.values()):
        gradient = layer.backward(gradient)
    optimizer.step(parameters(network, "_grad"))
    for name, layer in network.items():
        if name.startswith("norm"):
            layer.zero_grad()
    return loss


def batches(images: Array, digits: Array, epochs: int) -> Iterator[tuple[Array, Array]]:
    """In a new order each epoch, each image moved by up to a pixel with zeros at the edges."""
    rng = np.random.default_rng(1)
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = np.lib.stride_tricks.sliding_window_view(wide, images.shape[2:], (2, 3))
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            down, right = rng.integers(0, 3, (2, len(chosen)))
            yield np.ascontiguousarray(places[chosen, :, down, right]), digits[chosen]


def train(networks: list[Network], images: Array, digits: Array, epochs: int) -> list[list[float]]:
    """The losses of each network on the same batches: AdamW, and a rate that falls to 0 as a cosine does."""
    optimizers = [normcpu.AdamW(parameters(network), weight_decay=DECAY, decay="weights") for network in networks]
    steps = epochs * (len(images) // BATCH)
    losses: list[list[float]] = [[] for _ in networks]
    bar = tqdm(batches(images, digits, epochs), total=steps, unit="step", disable=None)  # None: not into a file
    for step, batch in enumerate(bar):
        for network, optimizer, seen in zip(networks, optimizers, losses, strict=True):
            optimizer.lr = RATE * (1 + np.cos(np.pi * step / steps)) / 2
            seen.append(train_step(network, optimizer, *batch))
        bar.set_postfix(with_norm=f"{losses[0][-1]:.3f}", without=f"{losses[1][-1]:.3f}", refresh=False)
    return losses


def frozen(network: Network) -> Network:
    for name, layer in network.items():
        if name.startswith("norm"):
            layer.freeze().eval()
    return network


def folded(network: Network) -> Network:
    """The same function without BatchNorm: each goes into the layer before it."""
    made = lenet(batch_norm=False)
    names = list(network)
    for name, layer in network.items():
        if layer.weight is None or name.startswith("norm"):
            continue
        weight, bias = layer.weight.copy(), layer.bias.copy()
        following = names[names.index(name) + 1] if name != names[-1] else ""
        if following.startswith("norm"):
            norm = network[following]
            affine = Affine.of_batch_norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
            fold = conv_then_affine if weight.ndim == 4 else linear_then_affine
            weight, bias = fold(weight, bias, affine)
        made[name].weight, made[name].bias = weight, bias
    return made


def interleaved(networks: dict[str, Network], images: Array, rounds: int = 100) -> dict[str, float]:
    """Median seconds, the networks in turns: what disturbs the machine disturbs all of them."""
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            start = time.perf_counter()
            run(network, images)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def draw(losses: dict[str, list[float]]) -> None:
    """Running means of an epoch, where matplotlib is installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("\nNo picture of the losses: matplotlib is not installed.")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    width = SEEN // BATCH
    for name, seen in losses.items():
        axes.plot(np.convolve(seen, np.ones(width) / width, "valid"), label=name)
    axes.set(xlabel="step", ylabel="loss, mean of an epoch", yscale="log", title="LeNet on digits of 8 x 8 pixels")
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"\nThe losses: {PICTURE}")


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    normcpu.set_num_threads(1)  # arrays of 100 KB
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images, digits = (data.images[order, None] / 16).astype(np.float32), data.target[order]
    with_norm, without = lenet(batch_norm=True), lenet(batch_norm=False)
    start = time.perf_counter()
    losses = train([with_norm, without], images[:SEEN], digits[:SEEN], epochs)
    print(f"Two networks, {epochs} epochs of {SEEN} images: {time.perf_counter() - start:.0f} s\n")

    unseen, shown = images[SEEN:], digits[SEEN:]
    networks = {
        "with BatchNorm": frozen(with_norm),
        "BatchNorm folded": folded(with_norm),
        "without BatchNorm": without,
    }
    times = interleaved({name: networks[name] for name in ("with BatchNorm", "BatchNorm folded")}, unseen[:100])
    print(f"{'network':20}{'last loss':>10}{'read right':>12}{'ms for 100':>12}")
    for name, network in networks.items():
        guesses = run(network, unseen).argmax(1)
        loss = np.mean((losses[1] if name.startswith("without") else losses[0])[-20:])
        taken = f"{times[name] * 1e3:12.2f}" if name in times else ""
        print(f"{name:20}{loss:10.4f}{(guesses == shown).mean():12.1%}{taken}")

    before, after = run(with_norm, unseen), run(networks["BatchNorm folded"], unseen)
    differently = np.count_nonzero(before.argmax(1) != after.argmax(1))
    print(f"\nRead differently after folding: {differently}; scores differ by at most {abs(before - after).max():.1e}")
    draw({"with BatchNorm": losses[0], "without": losses[1]})


if __name__ == "__main__":
    main()
