// Compares onnxruntime_subset.h with onnxruntime's own header, wherever that is to be had:
// g++ -std=c++17 -fsyntax-only -I FOLDER_OF_THE_HEADER check_subset.cpp
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

namespace ours {
#include "onnxruntime_subset.h"
}

// Number and bytes of a function's arguments tell a forgotten one.
template <typename Function>
struct Arguments;
template <typename R, typename... A>
struct Arguments<R (*)(A...)> {
    static constexpr std::size_t count = sizeof...(A), bytes = (sizeof(A) + ... + 0);
};
template <typename R, typename... A>
struct Arguments<R (*)(A...) noexcept> : Arguments<R (*)(A...)> {};

#define SAME(name)                                                                  \
    static_assert(offsetof(ours::OrtApi, name) == offsetof(OrtApi, name), #name);   \
    static_assert(Arguments<decltype(ours::OrtApi::name)>::count ==                 \
                      Arguments<decltype(OrtApi::name)>::count, #name);             \
    static_assert(Arguments<decltype(ours::OrtApi::name)>::bytes ==                 \
                      Arguments<decltype(OrtApi::name)>::bytes, #name)
#define SAME_VALUE(name) \
    static_assert(static_cast<int>(ours::name) == static_cast<int>(::name), #name)

SAME(GetErrorMessage);
SAME(CreateEnv);
SAME(CreateSession);
SAME(Run);
SAME(CreateSessionOptions);
SAME(SetSessionLogSeverityLevel);
SAME(SetIntraOpNumThreads);
SAME(CreateTensorWithDataAsOrtValue);
SAME(GetTensorMutableData);
SAME(GetTensorElementType);
SAME(GetTensorShapeElementCount);
SAME(GetTensorTypeAndShape);
SAME(CreateCpuMemoryInfo);
SAME(AllocatorFree);
SAME(GetAllocatorWithDefaultOptions);
SAME(ReleaseEnv);
SAME(ReleaseStatus);
SAME(ReleaseMemoryInfo);
SAME(ReleaseSession);
SAME(ReleaseValue);
SAME(ReleaseTensorTypeAndShapeInfo);
SAME(ReleaseSessionOptions);
SAME(SessionGetModelMetadata);
SAME(ModelMetadataLookupCustomMetadataMap);
SAME(ReleaseModelMetadata);

SAME_VALUE(ORT_LOGGING_LEVEL_ERROR);
SAME_VALUE(OrtDeviceAllocator);
SAME_VALUE(OrtMemTypeDefault);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);

static_assert(offsetof(ours::OrtApiBase, GetApi) == offsetof(OrtApiBase, GetApi), "GetApi");
static_assert(offsetof(ours::OrtApiBase, GetVersionString) ==
                  offsetof(OrtApiBase, GetVersionString), "GetVersionString");
