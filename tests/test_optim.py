# SPDX-License-Identifier: Apache-2.0
"""SGD and AdamW against their formulas in float64 and PyTorch's over many steps, and bit for bit against themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from peers import peer

from normcpu import SGD, AdamW, BatchNorm2d, _core
from normcpu.optim import decays

Array = np.ndarray
SHAPES = {"conv.weight": (5, 3, 3, 3), "conv.bias": (5,), "bn1.weight": (5,), "bn1.bias": (5,), "fc.weight": (70, 130),
          "one": (), "none": (0, 3), "odd": (17,)}  # fmt: skip
SGDS = [
    {"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.05}, {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
]  # fmt: skip
ADAMWS = [{}, {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.0}]
CASES = [(SGD, how) for how in SGDS] + [(AdamW, how) for how in ADAMWS]
ISAS = [name for name in _core.isas_built() if _core.isa_supported(name)]


def parameters(dtype: Any = np.float32, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def reference(kind: Any, how: dict[str, Any], w: Array, grads: list[Array], decayed: bool = True) -> Array:
    """In the arrays' own dtype, from the formulas of PyTorch's documentation."""
    lr, decay = how.get("lr", 1e-3), how.get("weight_decay", 0.0 if kind is SGD else 1e-2) * decayed
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        if kind is SGD:
            g, momentum = g + decay * w, how.get("momentum", 0.0)
            mean = g if t == 1 else momentum * mean + (1 - how.get("dampening", 0.0)) * g
            w = w - lr * (g + momentum * mean if how.get("nesterov") else mean if momentum else g)
            continue
        b1, b2 = how.get("betas", (0.9, 0.999))
        w, mean, square = w - lr * decay * w, b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g * g
        w = w - lr * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + how.get("eps", 1e-8))
    return w


@pytest.mark.parametrize(("kind", "how"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_formulas(kind: Any, how: Any, dtype: Any) -> None:
    mine, before = parameters(dtype), parameters(np.float64)
    optimizer = kind(mine, **how)
    grads = [parameters(dtype, seed) for seed in range(1, 41)]
    for g in grads:
        optimizer.step(g)
    error = 3e-6 if dtype is np.float32 else 1e-14
    for name, w in mine.items():
        assert w.dtype == dtype
        start = before[name].astype(dtype).astype(np.float64)
        want = reference(kind, how, start, [g[name].astype(np.float64) for g in grads])
        np.testing.assert_allclose(w, want, rtol=error, atol=error, err_msg=name)


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "how"), CASES)
def test_torch(kind: Any, how: Any) -> None:
    """200 steps on a loss of their own gradients, with a rate that changes and gradients that are missing."""
    torch = peer("torch")
    mine = {name: w for name, w in parameters(np.float64).items() if w.size}
    theirs = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in mine.values()]
    ours, other = kind(mine, **how), getattr(torch.optim, kind.__name__)(theirs, **how)
    for t in range(200):
        ours.lr = how.get("lr", 1e-3) / (1 + t / 50)
        other.param_groups[0]["lr"] = ours.lr
        grads: list[Any] = [np.asarray(np.sin(3 * w) + w - 0.1) for w in mine.values()]
        for i, (parameter, g) in enumerate(zip(theirs, grads, strict=True)):
            parameter.grad = torch.from_numpy(np.array(g))
            if t % 3 == 1 and i == 1:
                parameter.grad = grads[i] = None
        ours.step(grads)
        other.step()
    for w, parameter in zip(mine.values(), theirs, strict=True):
        np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_same_bits(kind: Any, how: Any) -> None:
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(n).astype(np.float32) for n in (700_001, 3, 4096, 63, 300_000)]
    grads, made = [rng.standard_normal(w.size).astype(np.float32) for w in start], set()
    for isa in ISAS:
        for threads in (1, 2, 3, 4) if isa == ISAS[0] else (1,):
            _core.use_isa(isa)
            _core.set_num_threads(threads)
            mine = [w.copy() for w in start]
            optimizer = kind(mine, **how)
            for _ in range(3):
                optimizer.step(grads)
            made.add(b"".join(w.tobytes() for w in mine))
    assert len(made) == 1


def test_rule_of_names() -> None:
    zeros = parameters()
    assert [name for name in SHAPES if decays(name, zeros[name])] == ["conv.weight", "fc.weight", "none"]
    image = np.zeros((4, 4))
    for name in ("layer1.0.bn2.weight", "norm.weight", "encoder.layer_norm.weight", "ln_1.bias", "LayerNorm.weight"):
        assert not decays(name, image), name
    for name in ("weight", "blend.weight", "normal", "bnx.weight", "head.weight"):
        assert decays(name, image), name


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_decay_by_name(kind: Any) -> None:
    how = {"lr": 0.1, "weight_decay": 0.2}
    for rule in ("weights", lambda name, array: name == "odd"):
        mine, before = parameters(np.float64), parameters(np.float64)
        optimizer, g = kind(mine, **how, decay=rule), parameters(np.float64, 1)
        optimizer.step(g)
        for name, w in mine.items():
            decayed = decays(name, w) if rule == "weights" else name == "odd"
            assert optimizer.decayed[name] == decayed
            np.testing.assert_allclose(
                w, reference(kind, how, before[name], [g[name]], decayed), rtol=1e-14, atol=1e-15
            )


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_state_continues_the_run(kind: Any, tmp_path: Any) -> None:
    how = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5} if kind is SGD else {"lr": 0.1}
    mine = parameters()
    optimizer = kind(mine, **how)
    optimizer.step(parameters(seed=1))
    optimizer.step({**parameters(seed=2), "odd": None})
    np.savez(tmp_path / "state.npz", **optimizer.state_dict())
    copies = {name: w.copy() for name, w in mine.items()}
    again = kind(copies, **how)
    again.load_state_dict(str(tmp_path / "state.npz"))
    assert again.steps == optimizer.steps
    assert again.steps["odd"] == 1
    for each in (optimizer, again):
        each.step(parameters(seed=3))
    assert all(np.array_equal(copies[name], w) for name, w in mine.items())


def test_bad_state_changes_nothing() -> None:
    optimizer = AdamW(parameters())
    optimizer.step(parameters(seed=1))
    state = optimizer.state_dict()
    del state["mean.one"]
    state |= {"square.odd": np.zeros(3), "more": np.zeros(1), "step.odd": np.array(0.5)}
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"^AdamW.load_state_dict: missing 'mean.one'; unexpected 'more'; ") as caught:
        optimizer.load_state_dict(state)
    for part in ("square.odd must have shape (17,), got (3,)", "step.odd must be integers, got float64"):
        assert part in str(caught.value)
    after = optimizer.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_bad_gradient_changes_nothing() -> None:
    mine, before = parameters(), parameters()
    optimizer = SGD(mine, 0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"^the gradient of odd must have shape \(17,\), got \(18,\)$"):
        optimizer.step({**parameters(seed=1), "odd": np.zeros(18, np.float32)})
    mine["odd"].flags.writeable = False
    with pytest.raises(ValueError, match=r"^odd must be writeable, got a read-only array$"):
        optimizer.step(parameters(seed=1))
    assert all(np.array_equal(mine[name], before[name]) for name in mine)
    assert not any(buffer.any() for buffer in optimizer.state["mean"].values())
    assert set(optimizer.steps.values()) == {0}


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_ctrl_c_behind_a_step_finds_it_counted(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = kind(parameters())
    step = optimizer._step
    for error, steps in ((KeyboardInterrupt, 1), (MemoryError, 0)):

        def stopped(*arguments: Any, error: type[BaseException] = error) -> None:
            if error is KeyboardInterrupt:  # as Python raises it: once the call is over
                step(*arguments)
            raise error

        optimizer.steps = dict.fromkeys(optimizer.steps, 0)
        monkeypatch.setattr(optimizer, "_step", stopped)
        with pytest.raises(error):
            optimizer.step(parameters(seed=1))
        assert set(optimizer.steps.values()) == {steps}


def test_a_negative_step_is_no_state() -> None:
    optimizer = AdamW(parameters())
    state = optimizer.state_dict() | {"step.odd": np.array(-5)}
    with pytest.raises(ValueError, match=r"^AdamW.load_state_dict: step.odd must be at least 0, got -5$"):
        optimizer.load_state_dict(state)
    assert set(optimizer.steps.values()) == {0}


def test_gradients_of_any_layout() -> None:
    w, g = np.ones((3, 4)), np.arange(12.0).reshape(4, 3)
    SGD([w], 1.0).step([g.T])
    assert np.array_equal(w, 1 - g.T)
    SGD([w], 1.0).step([w])  # the parameter itself
    assert not w.any()


def test_layers() -> None:
    """A layer's parameters and gradients are what the optimizers take."""
    norm = BatchNorm2d(3)
    assert norm.weight is not None
    assert norm.bias is not None
    norm(np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32))
    norm.backward(np.ones((2, 3, 4, 4), np.float32))
    AdamW({"bn.weight": norm.weight, "bn.bias": norm.bias}, decay="weights").step([norm.weight_grad, norm.bias_grad])
    np.testing.assert_allclose(norm.bias, -1e-3, rtol=1e-5)


def test_huge_and_tiny() -> None:
    """As float arithmetic has it: an infinite gradient stays in its element."""
    w = np.ones(40, np.float32)
    g = np.ones(40, np.float32)
    g[3], g[20] = np.inf, np.nan
    SGD([w], 0.5, 0.9).step([g])
    assert w[3] == -math.inf
    assert math.isnan(w[20])
    assert np.all(np.delete(w, [3, 20]) == 0.5)
