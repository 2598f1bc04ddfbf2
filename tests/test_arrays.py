# SPDX-License-Identifier: Apache-2.0
"""What the functions take for an array, without a copy, and what they say of everything else."""

from __future__ import annotations

import array
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bad_calls import BAD_CALLS, names
from peers import peer

from normcpu import BatchNorm1d, batch_norm, moments, scale_shift

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MEAN, VAR = np.array([5.0, 10.0, 15.0], np.float32), np.array([4.0, 1.0, 0.25], np.float32)
Y = batch_norm(X, MEAN, VAR)


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[call for call, *_ in BAD_CALLS])
def test_bad_call(call: str, error: type[Exception], message: str) -> None:
    scope = names()
    before = {name: value.copy() for name, value in scope.items() if isinstance(value, np.ndarray)}
    with pytest.raises(error) as caught:
        eval(call, scope)
    assert str(caught.value) == message
    assert type(caught.value) is error
    if error is not FloatingPointError:  # what is found before the work leaves everything as it was
        assert all(np.array_equal(scope[name], value) for name, value in before.items())
    assert np.array_equal(scope["mean"], before["mean"])


def test_table_is_long_enough() -> None:
    assert len({call for call, *_ in BAD_CALLS}) == len(BAD_CALLS) >= 40


# ---- Objects that hold arrays ----------------------------------------------------------------------------


class HasArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return X


class HasDLPack:
    """As jax: read-only, versioned where the consumer knows of versions."""

    def __init__(self, source: np.ndarray) -> None:
        self.source = source

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> Any:
        return self.source.__dlpack__(**({"max_version": max_version} if max_version else {}))

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class HasOldDLPack(HasDLPack):
    """From before DLPack 1.0: no max_version."""

    def __dlpack__(self) -> Any:  # type: ignore[override]
        return self.source.__dlpack__()


@pytest.mark.parametrize("kind", [HasDLPack, HasOldDLPack])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_dlpack(kind: type[HasDLPack], dtype: str) -> None:
    source = np.asfortranarray(X.astype(dtype))[:, ::-1]
    assert np.array_equal(batch_norm(kind(source), MEAN, VAR), batch_norm(source, MEAN, VAR))
    layers = [BatchNorm1d(3, dtype=np.float64 if dtype == "f8" else np.float32) for _ in range(2)]
    assert np.array_equal(layers[0](kind(source)), layers[1](source))
    assert np.array_equal(layers[0].backward(source), layers[1].backward(source))


def test_dlpack_is_not_copied() -> None:
    from normcpu._foreign import to_ndarray

    source = X.copy()
    seen = to_ndarray("x", HasDLPack(source))
    assert np.shares_memory(seen, source)
    assert not seen.flags.writeable
    del source
    assert np.array_equal(seen, X)  # the capsule keeps the memory


def test_dlpack_of_other_types_names_them() -> None:
    with pytest.raises(TypeError, match=r"^x must be float32, .* got int32: convert it with x.astype\('float32'\)$"):
        batch_norm(HasDLPack(X.astype(np.int32)), MEAN, VAR)


def test_objects_with_a_buffer_or_an_array() -> None:
    flat = array.array("f", range(6))
    assert np.array_equal(scale_shift(flat, [2.0] * 6, channel_axis=0), 2 * np.arange(6, dtype=np.float32))
    assert np.array_equal(batch_norm(memoryview(X), MEAN, VAR), Y)
    assert np.array_equal(batch_norm(HasArray(), MEAN, VAR), Y)


def test_subclasses(tmp_path: Any) -> None:
    on_disk = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    on_disk[...] = X
    y = batch_norm(on_disk, MEAN, VAR)
    assert type(y) is np.ndarray
    assert np.array_equal(y, Y)
    batch_norm(X, MEAN, VAR, out=on_disk)
    assert np.array_equal(on_disk, Y)


@pytest.mark.parametrize("function", [batch_norm, scale_shift])
def test_read_only_input(function: Any) -> None:
    x, mean, var = X.copy(), MEAN.copy(), VAR.copy()
    for each in (x, mean, var):
        each.flags.writeable = False
    assert np.array_equal(function(x, mean, var), function(X, MEAN, VAR))


def test_parameters_of_any_float_dtype() -> None:
    for dtype in ("f2", "f4", "f8", ">f4", ml_dtypes.bfloat16):
        mean, var, weight = MEAN.astype(dtype), VAR.astype(dtype), np.ones(6, dtype)[::2]
        if dtype == ">f4":
            with pytest.raises(TypeError, match="native byte order"):
                batch_norm(X, mean, var, weight)
        else:
            assert np.array_equal(batch_norm(X, mean, var, weight), Y)
    assert np.array_equal(batch_norm(X, list(MEAN), tuple(VAR), [1, 1, 1]), Y)


def test_misaligned_input() -> None:
    x = np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    x[...] = X
    assert not x.flags.aligned
    assert np.array_equal(batch_norm(x, MEAN, VAR), Y)


@pytest.mark.parametrize("order", [slice(None, None, 1), slice(None, None, -1), [*range(0, 16, 2), *range(1, 16, 2)]])
def test_as_many_axes_as_there_may_be(order: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2,) * 16).astype(np.float32).transpose(np.arange(16)[order])[..., ::-1]
    for axis in (None, 0, 15, (0, 1, 2), tuple(range(0, 16, 2)), tuple(range(15))):
        got, wide = moments(x, axis), x.astype(float)
        np.testing.assert_allclose(got.mean, wide.mean(axis), rtol=0, atol=1e-6)
        np.testing.assert_allclose(got.var, wide.var(axis), rtol=1e-6)
    for axis in (0, 7, 15):
        flat = np.moveaxis(x, axis, 1).reshape(2, 2, -1)
        want = batch_norm(np.ascontiguousarray(flat), MEAN[:2], VAR[:2])
        got = np.moveaxis(batch_norm(x, MEAN[:2], VAR[:2], channel_axis=axis), axis, 1)
        assert np.array_equal(got.reshape(2, 2, -1), want)


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_scale_shift_of_bytes(dtype: str) -> None:
    image = np.arange(-30, 30).astype(dtype).reshape(4, 5, 3)
    y = scale_shift(image, VAR, center=MEAN, channel_axis=-1)
    assert y.dtype == np.float32
    assert np.array_equal(y, (image.astype(np.float32) - MEAN) * VAR)


# ---- torch -----------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_torch_without_copy() -> None:
    torch = peer("torch")
    from normcpu._foreign import to_ndarray

    for tensor in (torch.arange(24.0).reshape(2, 3, 4), torch.arange(24.0).reshape(4, 3, 2).permute(2, 1, 0)):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            x = tensor.to(dtype)
            seen = to_ndarray("x", x)
            assert seen.ctypes.data == x.data_ptr()
            assert seen.dtype.name == str(dtype).removeprefix("torch.")
            expected = torch.nn.functional.batch_norm(x.double(), *(torch.from_numpy(p).double() for p in (MEAN, VAR)))
            difference = np.abs(batch_norm(x, MEAN, VAR).astype(float) - expected.numpy())
            assert difference.max() <= float(torch.finfo(dtype).eps) * expected.abs().max()


@pytest.mark.peers
def test_torch_parameters() -> None:
    torch = peer("torch")
    mean, var = torch.from_numpy(MEAN), torch.from_numpy(VAR)
    assert np.array_equal(batch_norm(torch.from_numpy(X.copy()), mean, var.bfloat16()), Y)
    with pytest.raises(TypeError, match=re.escape("running_mean is updated in place, so it must be a numpy.ndarray")):
        batch_norm(X, mean, var, training=True)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_with_gradient(dtype: str) -> None:
    torch = peer("torch")
    x = torch.ones(2, 3, dtype=getattr(torch, dtype), requires_grad=True)
    with pytest.raises(TypeError) as caught:
        batch_norm(x, MEAN, VAR)
    assert str(caught.value) == "x requires grad, and normcpu records no gradients: pass x.detach()"
    batch_norm(x.detach(), MEAN, VAR)


@pytest.mark.peers
def test_torch_elsewhere() -> None:
    torch = peer("torch")
    with pytest.raises(TypeError, match=r"^x must be an array, got Tensor, which says: "):
        batch_norm(torch.ones(2, 3).to_sparse(), MEAN, VAR)
    with pytest.raises(TypeError, match=r"^x must be "):
        batch_norm(torch.ones(2, 3, device="meta"), MEAN, VAR)


@pytest.mark.peers
def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = peer("torch")
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match=re.escape("install it, or pass x.float()")):
        batch_norm(torch.ones(2, 3, dtype=torch.bfloat16), MEAN, VAR)
