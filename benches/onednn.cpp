// SPDX-License-Identifier: Apache-2.0
//
// oneDNN's batch normalization (https://github.com/oneapi-src/oneDNN) as a contestant, in the layouts its
// fast implementations are for.  All positions are one axis: they take the product of them in any case.
// Its training does not update running statistics.
#include <oneapi/dnnl/dnnl.hpp>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "bench.h"

namespace
{

using dnnl::memory;
using dnnl::normalization_flags;
using dnnl::prop_kind;
using forward = dnnl::batch_normalization_forward;
using backward = dnnl::batch_normalization_backward;

constexpr float EPS = 1e-5f;

struct layout {
    const char *name;
    memory::format_tag tag;
};

const layout LAYOUTS[] = {{"nhwc", memory::format_tag::nhwc}, {"nChw16c", memory::format_tag::nChw16c}};

const dnnl::engine &cpu()
{
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

struct primitive {
    dnnl::stream stream{cpu()};
    dnnl::primitive op;
    std::unordered_map<int, memory> arguments;

    static void run(void *context)
    {
        auto *self = static_cast<primitive *>(context);
        self->op.execute(self->stream, self->arguments);
        self->stream.wait();
    }
    static void release(void *context) { delete static_cast<primitive *>(context); }
};

// A primitive with what all of them take; onednn owns the (few) parameters, the problem the arrays.
std::unique_ptr<primitive> prepare(const bench_problem &p, const memory::desc &data)
{
    auto made = std::make_unique<primitive>();
    const memory::desc channels({p.c}, memory::data_type::f32, memory::format_tag::a);
    for (int slot : {DNNL_ARG_MEAN, DNNL_ARG_VARIANCE, DNNL_ARG_SCALE, DNNL_ARG_SHIFT, DNNL_ARG_DIFF_SCALE,
                     DNNL_ARG_DIFF_SHIFT}) {
        memory values(channels, cpu());
        auto *at = static_cast<float *>(values.get_data_handle());
        for (ptrdiff_t i = 0; i < p.c; i++) at[i] = slot == DNNL_ARG_VARIANCE ? 1.3f : 0.7f;
        made->arguments.emplace(slot, values);
    }
    made->arguments.emplace(DNNL_ARG_SRC, memory(data, cpu(), p.x));
    made->arguments.emplace(DNNL_ARG_DST, memory(data, cpu(), p.y));
    made->arguments.emplace(DNNL_ARG_DIFF_DST, memory(data, cpu(), p.dy));
    made->arguments.emplace(DNNL_ARG_DIFF_SRC, memory(data, cpu(), p.dx));
    return made;
}

void enter(bench_list *list, const bench_problem &p, const layout &lies, const char *name,
           memory::data_type type)
{
    const memory::desc data({p.n, p.c, p.s, 1}, type, lies.tag);
    const auto affine = normalization_flags::use_scale | normalization_flags::use_shift;
    const auto given = affine | normalization_flags::use_global_stats;
    auto made = prepare(p, data);
    const forward::primitive_desc eval(cpu(), prop_kind::forward_inference, data, data, EPS, given);
    const forward::primitive_desc train(cpu(), prop_kind::forward_training, data, data, EPS, affine);
    if (name[0] == 'e') made->op = forward(eval);
    if (name[0] == 't') made->op = forward(train);
    if (name[0] == 'b') {
        made->op = backward({cpu(), prop_kind::backward, data, data, data, EPS, affine, train});
        made->arguments.erase(DNNL_ARG_SHIFT); // the one argument it refuses instead of ignoring
    }
    bench_enter(list, {"onednn", name, lies.name, primitive::run, made.release(), primitive::release});
}

// Layer normalization of rows, for problems of two axes.
void enter_rows(bench_list *list, const bench_problem &p, const char *name, memory::data_type type)
{
    using rows_forward = dnnl::layer_normalization_forward;
    using rows_backward = dnnl::layer_normalization_backward;
    const memory::desc data({p.n, p.c}, type, memory::format_tag::ab);
    const memory::desc bytes({p.n, p.c}, memory::data_type::s8, memory::format_tag::ab);
    const memory::desc each_row({p.n}, memory::data_type::f32, memory::format_tag::a);
    const memory::desc each_column({p.c}, memory::data_type::f32, memory::format_tag::a);
    const memory::desc single({1}, memory::data_type::f32, memory::format_tag::a);
    const auto affine = normalization_flags::use_scale | normalization_flags::use_shift;
    const bool backwards = std::string(name) == "layer_norm backward", quantized = std::string(name) == "layer_norm int8";
    auto made = std::make_unique<primitive>();
    for (int slot : {DNNL_ARG_MEAN, DNNL_ARG_VARIANCE, DNNL_ARG_SCALE, DNNL_ARG_SHIFT, DNNL_ARG_DIFF_SCALE,
                     DNNL_ARG_DIFF_SHIFT, DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST}) {
        const bool statistic = slot == DNNL_ARG_MEAN || slot == DNNL_ARG_VARIANCE;
        const bool scale = slot == (DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST);
        if (statistic && !backwards) continue;
        if (scale && !quantized) continue;
        memory values(statistic ? each_row : scale ? single : each_column, cpu());
        auto *at = static_cast<float *>(values.get_data_handle());
        for (ptrdiff_t i = 0; i < (statistic ? p.n : scale ? 1 : p.c); i++)
            at[i] = slot == DNNL_ARG_VARIANCE ? 1.3f : scale ? 0.02f : 0.7f;
        made->arguments.emplace(slot, values);
    }
    made->arguments.emplace(DNNL_ARG_SRC, memory(data, cpu(), p.x));
    if (!backwards) {
        dnnl::primitive_attr attr;
        if (quantized) attr.set_scales_mask(DNNL_ARG_DST, 0);
        made->op = rows_forward({cpu(), prop_kind::forward_inference, data, quantized ? bytes : data, EPS, affine, attr});
        made->arguments.emplace(DNNL_ARG_DST, memory(quantized ? bytes : data, cpu(), p.y));
    } else {
        const rows_forward::primitive_desc train(cpu(), prop_kind::forward_training, data, data, EPS, affine);
        made->op = rows_backward({cpu(), prop_kind::backward, data, data, data, EPS, affine, train});
        made->arguments.erase(DNNL_ARG_SHIFT);
        made->arguments.emplace(DNNL_ARG_DIFF_DST, memory(data, cpu(), p.dy));
        made->arguments.emplace(DNNL_ARG_DIFF_SRC, memory(data, cpu(), p.dx));
    }
    bench_enter(list, {"onednn", name, "first", primitive::run, made.release(), primitive::release});
}

} // namespace

extern "C" void bench_enter_onednn(bench_list *list, const bench_problem *p)
{
    using type = memory::data_type;
    const type TYPES[] = {type::f32, type::undef, type::f16, type::bf16}; // in the order of ncpu_dtype
    for (const layout &lies : LAYOUTS)
        for (const char *name : {"eval", "train", "backward"})
            try {
                enter(list, *p, lies, name, TYPES[p->dtype]);
            } catch (const dnnl::error &) {
                // not on this CPU, or not for this dtype: absent from the table
            }
    for (const char *name : {"layer_norm", "layer_norm int8", "layer_norm backward"})
        try {
            if (p->ndim == 2) enter_rows(list, *p, name, TYPES[p->dtype]);
        } catch (const dnnl::error &) {
        }
}
