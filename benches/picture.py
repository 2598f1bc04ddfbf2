# SPDX-License-Identifier: Apache-2.0
"""The table as a picture: GB/s over the shapes, small to large, under the memory limit."""

import math

from targets import PASSES

OPS = ("eval", "train", "backward")
# Name in the legend -> the marker, and the peers of which the faster counts.
SERIES = {
    "normcpu, channel-major": ("o", "#d62728", ("first",)),
    "normcpu, channels-last": ("D", "#ff9896", ("last",)),
    "oneDNN": ("^", "#1f77b4", ("onednn nhwc", "onednn nChw16c")),
    "torch": ("s", "#2ca02c", ("torch first", "torch last")),
    "ONNX Runtime": ("v", "#9467bd", ("onnxruntime first",)),
}


def value(by_layout, names):
    """GB/s: our own in that layout, or the fastest of the peers (those from Python as their Python call)."""
    ours = by_layout.get(names[0], by_layout["first"])
    if names[0] in ("first", "last"):
        return ours.rate if ours.layout == names[0] else math.nan
    times = [ours.peers[name] for name in names if name in ours.peers]
    return ours.rate * ours.seconds / min(times) if times else math.nan


def draw(rows, folder):
    """Yields the paths of the pictures, one per number of threads: f32 only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    for threads in sorted({row.threads for row in rows}):
        figure, axes = plt.subplots(len(OPS), 1, figsize=(13, 11), sharex=True, layout="constrained")
        mine = [row for row in rows if row.threads == threads and row.dtype == "f32" and row.op in OPS]
        names = sorted({row.shape for row in mine}, key=lambda shape: (math.prod(shape), shape))
        names = [shape for shape in names if math.prod(shape) > 1]
        for ax, op in zip(axes, OPS, strict=True):
            by_shape = {shape: {} for shape in names}
            for row in mine:
                if row.op == op and row.shape in by_shape:
                    by_shape[row.shape][row.layout] = row
            limits = [PASSES[op] * r["first"].bytes / r["first"].limit * 1e-9 if r else math.nan
                      for r in by_shape.values()]  # fmt: skip
            ax.step(range(len(names)), limits, where="mid", color="black", lw=1, label="memory limit")
            for label, (marker, color, peers) in SERIES.items():
                values = [value(found, peers) if found else math.nan for found in by_shape.values()]
                ax.plot(range(len(names)), values, marker, color=color, ms=5, label=label)
            ax.set_ylabel(f"{op}, GB/s")
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.grid(axis="both", alpha=0.3)
        axes[0].legend(ncols=6, fontsize=8, loc="lower left")
        axes[0].set_title(f"Batch normalization, f32, {threads} thread{'s' if threads > 1 else ''}")
        labels = ["x".join(map(str, shape)) for shape in names]
        axes[-1].set_xticks(range(len(names)), labels, rotation=60, ha="right")
        path = folder / f"speed-{threads}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None})  # the same numbers, the same bytes
        plt.close(figure)
        yield path
