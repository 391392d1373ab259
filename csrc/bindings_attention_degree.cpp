// Addresses of tensors that torch allocated; their shapes and dtypes are checked in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "attention_degree.h"
#include "bindings.h"

namespace py = pybind11;

namespace {

using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

float* at(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

robustad::AttentionProblem problem(const Shape& shape, float scale, float delta, float tau,
                                   int threads) {
    return {std::get<0>(shape), std::get<1>(shape), std::get<2>(shape), std::get<3>(shape),
            scale,              delta,              tau,                threads};
}

void forward(const Shape& shape, float scale, float delta, float tau, std::uintptr_t q,
             std::uintptr_t k, std::uintptr_t v, std::uintptr_t out, std::uintptr_t lse,
             std::uintptr_t degree, std::uintptr_t effective, std::uintptr_t entropy,
             std::uintptr_t patch_lse, std::uintptr_t moment, int threads,
             const std::string& path) {
    py::gil_scoped_release release;
    robustad::attention_forward(
        problem(shape, scale, delta, tau, threads),
        {at(q), at(k), at(v), at(out), at(lse), at(degree), at(effective), at(entropy),
         at(patch_lse), at(moment)},
        path.c_str());
}

void backward(const Shape& shape, float scale, float delta, float tau, std::uintptr_t q,
              std::uintptr_t k, std::uintptr_t v, std::uintptr_t dout, std::uintptr_t lse,
              std::uintptr_t dsum, std::uintptr_t patch_lse, std::uintptr_t a, std::uintptr_t b,
              std::uintptr_t c, std::uintptr_t r, std::uintptr_t dq, std::uintptr_t dk,
              std::uintptr_t dv, int threads, const std::string& path) {
    py::gil_scoped_release release;
    robustad::attention_backward(
        problem(shape, scale, delta, tau, threads),
        {at(q), at(k), at(v), at(dout), at(lse), at(dsum), at(patch_lse), at(a), at(b), at(c),
         at(r), at(dq), at(dk), at(dv)},
        path.c_str());
}

std::optional<std::string> attention_path(const std::string& path) {
    const char* name = robustad::attention_path(path.c_str());
    return name ? std::optional<std::string>(name) : std::nullopt;
}

}  // namespace

void bind_attention_degree(py::module_& m) {
    m.def("attention_forward", &forward,
          "Statistics of softmax attention, and its output where v is not 0; see "
          "csrc/attention_degree.h. Shape: heads, tokens, prefix, dim. Addresses of float32, 0 for "
          "what is not there.");
    m.def("attention_backward", &backward, "Gradient of `attention_forward`.");
    m.def("attention_path", &attention_path,
          "Instruction set used for a path name, or for '' the best; None if not available.");
}
