// SPDX-License-Identifier: Apache-2.0
// From C++: layer norm of a batch forward and backward, and a step of gradient descent on its weights.
#include <normcpu.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(ncpu_status status)
{
    if (status != NCPU_OK) throw std::runtime_error("normcpu: status " + std::to_string(status));
}

constexpr std::ptrdiff_t rows = 4, width = 6;
constexpr std::array<std::ptrdiff_t, 2> shape{rows, width}, strides{width * 4, 4};

ncpu_array matrix(std::vector<float> &values) { return {values.data(), NCPU_F32, 2, shape.data(), strides.data()}; }

} // namespace

int main()
{
    std::vector<float> x(rows * width), dy(x.size()), y(x.size()), dx(x.size());
    for (std::size_t i = 0; i < x.size(); i++) {
        x[i] = static_cast<float>(i * 37 % 101) / 8 - 6;
        dy[i] = static_cast<float>(i * 53 % 97) / 16 - 3;
    }
    std::vector<float> weight(width, 1), bias(width, 0), dweight(width), dbias(width);
    std::vector<double> mean(rows), var(rows);

    const std::array<std::uint8_t, 2> axes{0, 1};
    ncpu_row_norm norm{};
    norm.axes = axes.data(), norm.weight = weight.data(), norm.bias = bias.data(), norm.eps = 1e-5;
    const ncpu_array in = matrix(x), gradient = matrix(dy), out = matrix(y), back = matrix(dx);
    check(ncpu_layer_norm(&in, &norm, nullptr, nullptr, nullptr, nullptr, &out, mean.data(), var.data()));
    check(ncpu_layer_norm_backward(&gradient, &in, &norm, mean.data(), var.data(), NCPU_NONE, nullptr, nullptr, nullptr,
                                   &back, nullptr, dweight.data(), dbias.data()));
    const ncpu_sgd how{0.125, 0, 0, 0, 0};
    const std::array<ncpu_parameter, 2> parameters{{
        {NCPU_F32, weight.size(), weight.data(), dweight.data(), nullptr, nullptr, 1, 1},
        {NCPU_F32, bias.size(), bias.data(), dbias.data(), nullptr, nullptr, 1, 1},
    }};
    check(ncpu_sgd_step(&how, parameters.data(), parameters.size()));

    std::printf("# y, dx, and the weight and the bias after a step\n");
    for (const auto *values : {&y, &dx, &weight, &bias})
        for (const float &value : *values) std::printf("%.9g%c", value, &value == &values->back() ? '\n' : ' ');
}
