# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_Float64s = npt.NDArray[np.float64]
_Capsule = object

version: str
max_ndim: int

def batch_norm_plain(
    x: object,
    running_mean: object,
    running_var: object,
    weight: object,
    bias: object,
    eps: object,
    channel_axis: object,
    out: object,
    /,
) -> _Array | None: ...
def batch_norm(
    x: _Array,
    channel_axis: int,
    mean: _Array | None,
    var: _Array | None,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    mask: _Array | None,
    y: _Array,
) -> None: ...
def batch_norm_train(
    x: _Array,
    channel_axis: int,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    mask: _Array | None,
    y: _Array,
    batch_mean: _Float64s,
    batch_var: _Float64s,
    running_mean: _Array | None,
    running_var: _Array | None,
    momentum: float,
    biased: bool,
    nonfinite: int,
) -> bool: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    channel_axis: int,
    weight: _Array | None,
    mean: _Float64s | None,
    var: _Float64s | None,
    eps: float,
    training: bool,
    activation: int,
    y: _Array | None,
    mask: _Array | None,
    dx: _Array | None,
    dresidual: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
) -> None: ...
def group_norm(
    x: _Array,
    channel_axis: int,
    groups: int,
    mean: _Float64s,
    var: _Float64s,
    valid: _Array | None,
    given: bool,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    mask: _Array | None,
    y: _Array,
) -> None: ...
def group_norm_backward(
    dy: _Array,
    x: _Array,
    channel_axis: int,
    groups: int,
    mean: _Float64s,
    var: _Float64s,
    valid: _Array | None,
    given: bool,
    weight: _Array | None,
    eps: float,
    activation: int,
    y: _Array | None,
    mask: _Array | None,
    dx: _Array | None,
    dresidual: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
) -> None: ...
def update_running(
    mean: _Float64s,
    m2: _Float64s,
    count: float,
    running_mean: _Array | None,
    running_var: _Array | None,
    double_data: bool,
    momentum: float,
    biased: bool,
    nonfinite: int,
) -> bool: ...
def scale_shift(
    x: _Array,
    channel_axis: int,
    center: _Array | None,
    scale: _Array | None,
    shift: _Array | None,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    y: _Array,
) -> None: ...
def scale_axis(x: _Array, axis: int, factor: _Float64s, y: _Array | None, peak: _Float64s) -> None: ...
def local_response_norm(
    x: _Array,
    channel_axis: int,
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    y: _Array,
) -> None: ...
def local_response_norm_backward(
    dy: _Array,
    x: _Array,
    channel_axis: int,
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    dx: _Array,
) -> None: ...
def dropout(
    x: _Array, p: float, alpha: bool, channel_axis: int, batched: bool, seed: int, y: _Array, mask: _Array
) -> None: ...
def dropout_backward(
    dy: _Array, p: float, alpha: bool, channel_axis: int, batched: bool, mask: _Array, dx: _Array
) -> None: ...
def sgd_step(
    arrays: list[tuple[_Array, _Array, _Array | None, _Array | None, int, bool]],
    rate: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None: ...
def adamw_step(
    arrays: list[tuple[_Array, _Array, _Array | None, _Array | None, int, bool]],
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None: ...
def moments(x: _Array, reduce: bytes, state: tuple[_Float64s, ...]) -> None: ...
def moments_merge(
    c: int, into_count: int, into: tuple[_Float64s, ...], count: int, part: tuple[_Float64s, ...]
) -> None: ...
def layer_norm(
    x: _Array,
    axes: bytes,
    rms: bool,
    weight: _Array | None,
    bias: _Array | None,
    plus_one: bool,
    eps: float,
    valid: _Array | None,
    added: _Array | None,
    total: _Array | None,
    activation: int,
    negative_slope: float,
    residual: _Array | None,
    mask: _Array | None,
    y: _Array,
    mean: _Float64s | None,
    var: _Float64s | None,
    scale: float,
    zero_point: int,
    scales: _Array | None,
) -> None: ...
def layer_norm_backward(
    dy: _Array,
    x: _Array,
    axes: bytes,
    rms: bool,
    weight: _Array | None,
    plus_one: bool,
    eps: float,
    valid: _Array | None,
    mean: _Float64s | None,
    var: _Float64s,
    activation: int,
    y: _Array | None,
    mask: _Array | None,
    dsum: _Array | None,
    dx: _Array,
    dresidual: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
) -> None: ...
def group_norm_plain(
    x: object, num_groups: object, weight: object, bias: object, eps: object, channel_axis: object, out: object, /
) -> _Array | None: ...
def layer_norm_plain(
    x: object, normalized_shape: object, weight: object, bias: object, eps: object, rms: bool, out: object, /
) -> _Array | None: ...
def is_channels_last(x: _Array, channel_axis: int) -> bool: ...
def is_parameter(array: object, double: bool, length: int) -> bool: ...
def bounds_meet(a: _Array | None, b: _Array | None) -> bool: ...
def same_view(a: _Array, b: _Array) -> bool: ...
def dlpack_dtype(capsule: _Capsule) -> str: ...
def from_dlpack(capsule: _Capsule) -> _Array: ...
def isas_built() -> tuple[str, ...]: ...
def isa_supported(name: str) -> bool: ...
def isa() -> str: ...
def use_isa(name: str | None) -> None: ...
def set_threading(capsule: _Capsule | None) -> None: ...
def threading_name() -> str: ...
def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def region_cost(threads: int) -> float: ...
