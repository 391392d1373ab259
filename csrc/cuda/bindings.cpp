// As csrc/bindings.cpp: addresses, unchecked, here of memory on a GPU. Needs no CUDA header.
#include <pybind11/pybind11.h>

#include "topk_mean.h"

namespace py = pybind11;

namespace {

template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void topk_mean(std::uintptr_t scores, std::uintptr_t weights, std::int64_t rows,
               std::int64_t columns, std::int64_t k, double fraction, bool shared, int dtype,
               int device, std::uintptr_t stream, std::uintptr_t means, std::uintptr_t state) {
    robustad::cuda::topk_mean({at<void>(scores), at<float>(weights), rows, columns, k, fraction,
                               shared, dtype, device, stream},
                              at<void>(means), at<double>(state));
}

void topk_mean_backward(std::uintptr_t scores, std::uintptr_t weights, std::int64_t rows,
                        std::int64_t columns, int dtype, int device, std::uintptr_t stream,
                        std::uintptr_t grad, std::uintptr_t state, std::uintptr_t out) {
    robustad::cuda::topk_mean_backward({at<void>(scores), at<float>(weights), rows, columns, 0, 0.0,
                                        false, dtype, device, stream},
                                       at<void>(grad), at<double>(state), at<void>(out));
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
    m.doc() = "robustad's CUDA kernels; free of torch. Loads without a driver.";
    m.def("device_count", &robustad::cuda::device_count);
    m.def("topk_mean", &topk_mean);
    m.def("topk_mean_backward", &topk_mean_backward);
}
