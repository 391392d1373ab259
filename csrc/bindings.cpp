// Python sees numpy arrays only, so that the module needs no torch to build or to import.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "bindings.h"
#include "topk_mean.h"

namespace py = pybind11;

namespace {

// Exact types and layout, no silent conversion: a cast here would copy whole score matrices.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

py::tuple topk_mean(const Array<float>& scores, std::int64_t k) {
    if (scores.ndim() != 2)
        throw std::invalid_argument("scores: expected 2 dimensions, got " +
                                    std::to_string(scores.ndim()));
    const auto rows = static_cast<std::int64_t>(scores.shape(0));
    const auto columns = static_cast<std::int64_t>(scores.shape(1));
    if (k < 1 || k > columns)
        throw std::invalid_argument("k: expected 1.." + std::to_string(columns) + ", got " +
                                    std::to_string(k));
    Array<float> means(rows);
    Array<std::int64_t> indices({rows, k});
    const float* in = scores.data();
    float* mean = means.mutable_data();
    std::int64_t* index = indices.mutable_data();
    {
        py::gil_scoped_release release;
        robustad::topk_mean(in, rows, columns, k, mean, index);
    }
    return py::make_tuple(means, indices);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "robustad's C++ core; free of torch.";
    m.def("topk_mean", &topk_mean, py::arg("scores").noconvert(), py::arg("k"),
          "Mean of the k largest values a row, and their columns: (rows, columns) float32 -> "
          "(rows,) float32, (rows, k) int64.");
    bind_attention_degree(m);
    bind_cosine_nn(m);
}
