// Python passes addresses of torch's tensors, so that the module needs no torch to build or to
// import. Addresses are not checked here: `robustad.ops` does, for all devices alike.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings.h"
#include "topk_mean.h"

namespace py = pybind11;

namespace {

template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void topk_mean(std::uintptr_t scores, std::uintptr_t weights, std::int64_t rows,
               std::int64_t columns, std::int64_t k, double fraction, bool shared, int dtype,
               int threads, std::uintptr_t means, std::uintptr_t state) {
    const py::gil_scoped_release release;
    robustad::topk_mean({at<void>(scores), at<float>(weights), rows, columns, k, fraction, shared,
                         static_cast<robustad::Dtype>(dtype), threads},
                        at<void>(means), at<double>(state));
}

void topk_mean_backward(std::uintptr_t scores, std::uintptr_t weights, std::int64_t rows,
                        std::int64_t columns, int dtype, int threads, std::uintptr_t grad,
                        std::uintptr_t state, std::uintptr_t out) {
    const py::gil_scoped_release release;
    robustad::topk_mean_backward({at<void>(scores), at<float>(weights), rows, columns, 0, 0.0,
                                  false, static_cast<robustad::Dtype>(dtype), threads},
                                 at<void>(grad), at<double>(state), at<void>(out));
}

py::list topk_mean_paths() {
    int count = 0;
    const char* const* names = robustad::topk_mean_paths(&count);
    py::list paths;
    for (int i = 0; i < count; ++i) paths.append(names[i]);
    return paths;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "robustad's C++ core; free of torch. Functions take addresses and check nothing.";
    m.def("topk_mean", &topk_mean);
    m.def("topk_mean_backward", &topk_mean_backward);
    m.def("topk_mean_paths", &topk_mean_paths);
    bind_attention_degree(m);
    bind_cosine_nn(m);
}
