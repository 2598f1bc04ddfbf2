# SPDX-License-Identifier: Apache-2.0
"""BatchNorm1d, 2d, 3d: a training step that fails, or is skipped, leaves the buffers bit for bit."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from layer_cases import buffers, draw, with_parameters

from normcpu.layers import BatchNorm1d, BatchNorm2d, batch


def overflowing(shape):
    x = draw(shape)
    x.flat[1] = np.inf
    return x


FAILURES = {
    "nonfinite": ({"nonfinite": "raise"}, overflowing((8, 3)), FloatingPointError),
    "one value": ({}, draw((1, 3)), ValueError),
    "axes": ({}, draw((8,)), ValueError),
    "channels": ({}, draw((8, 4)), ValueError),
    "integers": ({}, np.ones((8, 3), np.int64), TypeError),
    "dtype": ({}, draw((8, 3), np.float64), TypeError),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_step_that_fails_leaves_the_buffers_bit_for_bit(case, momentum):
    options, x, error = FAILURES[case]
    layer = BatchNorm1d(3, momentum=momentum, **options)
    layer(draw((8, 3), seed=9))
    before = buffers(layer)
    with pytest.raises(error):
        layer(x)
    assert buffers(layer) == before
    assert layer.skipped_updates == 0


@pytest.mark.parametrize("after", ["the update", "the count"])
def test_an_interrupt_at_any_point_leaves_the_buffers_bit_for_bit(monkeypatch, after):
    layer, x = BatchNorm1d(3), draw((8, 3))
    layer(x)
    before, whole = buffers(layer), batch.batch_norm

    class Interrupted:
        def __init__(self, result):
            self.mean, self.var, self.mask, self.skipped = result.mean, result.var, result.mask, False

        @property
        def y(self):
            assert layer.num_batches_tracked == 2
            raise KeyboardInterrupt

    def interrupted(*arguments, **options):
        result = whole(*arguments, **options)
        assert buffers(layer)[:2] != before[:2]
        if after == "the update":
            raise KeyboardInterrupt
        return Interrupted(result)

    monkeypatch.setattr(batch, "batch_norm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layer(x)
    assert buffers(layer) == before


def test_interrupts_of_a_running_loop_stop_between_steps_or_not_at_all():
    """Whenever the signal comes, the buffers are those of num_batches_tracked whole steps."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    x, delays = draw((64, 3, 500)), np.random.default_rng(0).uniform(5e-4, 3e-3, 40)
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in delays:
            layer, replay = BatchNorm1d(3), BatchNorm1d(3)
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    layer(x)
            for _ in range(int(layer.num_batches_tracked)):
                replay(x)
            assert buffers(layer) == buffers(replay)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_skipped_update_is_reported_and_not_counted(momentum):
    layer = BatchNorm1d(3, momentum=momentum, nonfinite="skip")
    layer(draw((8, 3)))
    before = buffers(layer)
    y = layer(overflowing((8, 3)))
    assert buffers(layer) == before
    assert layer.skipped_updates == 1
    assert np.isfinite(y[:, 0]).all()
    assert not np.isfinite(y[:, 1]).any()
    layer(draw((8, 3)))
    assert (layer.skipped_updates, layer.num_batches_tracked) == (1, 2)


def test_nonfinite_values_propagate_by_default_as_in_pytorch():
    layer = BatchNorm1d(3)
    layer(overflowing((8, 3)))
    assert not np.isfinite(layer.running_var[1])
    assert np.isfinite(layer.running_var[[0, 2]]).all()
    assert (layer.skipped_updates, layer.num_batches_tracked) == (0, 1)


def test_one_value_per_channel_gives_the_bias_by_policy_zero():
    layer = with_parameters(BatchNorm1d(3, single_value="zero"))
    before, x = buffers(layer), draw((1, 3))
    np.testing.assert_array_equal(layer(x), layer.bias[None])
    # dx = 0 is the difference of two equal products, one of them rounded.
    rounding = 2.0**-23 * np.abs(x * layer.weight) / 1e-5**0.5
    assert (np.abs(layer.backward(x)) <= rounding).all()
    np.testing.assert_array_equal(layer.bias_grad, x[0])
    assert buffers(layer) == before
    assert layer.skipped_updates == 1


def test_one_value_per_channel_takes_the_buffers_by_policy_running():
    layer = with_parameters(BatchNorm1d(3, single_value="running"))
    layer(draw((8, 3)))
    before, x, dy = buffers(layer), draw((1, 3), seed=1), draw((1, 3), seed=2)
    y, dx = layer(x), layer.backward(dy)
    assert buffers(layer) == before
    assert layer.skipped_updates == 1
    np.testing.assert_array_equal(y, layer.eval()(x))
    expected = dy * layer.weight / np.sqrt(layer.running_var + np.float32(1e-5))
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


def test_an_empty_batch_leaves_the_buffers():
    layer = BatchNorm2d(3)
    before = buffers(layer)
    assert layer(np.zeros((0, 3, 2, 2), np.float32)).shape == (0, 3, 2, 2)
    assert buffers(layer) == before
