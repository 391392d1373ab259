// topk_mean on an NVIDIA GPU: see csrc/topk_mean.h for the arguments.
#pragma once

#include <cstdint>

namespace robustad::cuda {

struct TopkMean {
    const void* scores;    // [rows, columns], in the memory of `device`, as are all the others
    const float* weights;  // [rows, columns] or null
    std::int64_t rows, columns, k;
    double fraction;
    bool shared;
    int dtype;  // 0 float32, 1 bfloat16, 2 float16
    int device;
    std::uintptr_t stream;  // a cudaStream_t
};

// GPUs that the driver offers; 0 without a driver.
int device_count();

// Both start kernels on the stream and return at once. Results are the same in every run. Throw
// std::runtime_error with CUDA's message if a kernel cannot start.
void topk_mean(const TopkMean& task, void* means, double* state);
void topk_mean_backward(const TopkMean& task, const void* grad, const double* state, void* out);

}  // namespace robustad::cuda
