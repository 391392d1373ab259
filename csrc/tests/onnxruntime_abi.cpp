// Compares csrc/onnxruntime/abi.h with onnxruntime's own header, which the build does without:
// g++ -std=c++17 -fsyntax-only -I FOLDER_OF_THE_HEADER csrc/tests/onnxruntime_abi.cpp
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "../onnxruntime/abi.h"

namespace ours = robustad::ort;

// Bytes of a function's arguments tell a forgotten one.
template <typename Function>
struct Arguments;
template <typename R, typename... A>
struct Arguments<R (*)(A...)> {
    static constexpr std::size_t count = sizeof...(A), bytes = (sizeof(A) + ... + 0);
};
template <typename R, typename... A>
struct Arguments<R (*)(A...) noexcept> : Arguments<R (*)(A...)> {};

#define SAME(slot, name)                                                                    \
    static_assert(ours::slot::place * sizeof(void*) == offsetof(OrtApi, name), #name);      \
    static_assert(Arguments<ours::slot::Function>::count ==                                 \
                      Arguments<decltype(OrtApi::name)>::count, #name);                     \
    static_assert(Arguments<ours::slot::Function>::bytes ==                                 \
                      Arguments<decltype(OrtApi::name)>::bytes, #name)

SAME(CreateStatus, CreateStatus);
SAME(GetErrorMessage, GetErrorMessage);
SAME(CreateCustomOpDomain, CreateCustomOpDomain);
SAME(CustomOpDomainAdd, CustomOpDomain_Add);
SAME(AddCustomOpDomain, AddCustomOpDomain);
SAME(GetTensorMutableData, GetTensorMutableData);
SAME(GetDimensionsCount, GetDimensionsCount);
SAME(GetDimensions, GetDimensions);
SAME(GetTensorTypeAndShape, GetTensorTypeAndShape);
SAME(KernelInfoGetAttributeInt64, KernelInfoGetAttribute_int64);
SAME(KernelContextGetInput, KernelContext_GetInput);
SAME(KernelContextGetOutput, KernelContext_GetOutput);
SAME(ReleaseStatus, ReleaseStatus);
SAME(ReleaseTensorInfo, ReleaseTensorTypeAndShapeInfo);
SAME(KernelInfoGetConstantInput, KernelInfoGetConstantInput_tensor);
SAME(KernelContextParallelFor, KernelContext_ParallelFor);

#define SAME_FIELD(field, name) \
    static_assert(offsetof(ours::CustomOp, field) == offsetof(OrtCustomOp, name), #name)

SAME_FIELD(op_version, version);
SAME_FIELD(create_kernel, CreateKernel);
SAME_FIELD(name, GetName);
SAME_FIELD(provider, GetExecutionProviderType);
SAME_FIELD(input_type, GetInputType);
SAME_FIELD(inputs, GetInputTypeCount);
SAME_FIELD(output_type, GetOutputType);
SAME_FIELD(outputs, GetOutputTypeCount);
SAME_FIELD(compute, KernelCompute);
SAME_FIELD(destroy, KernelDestroy);
SAME_FIELD(input_presence, GetInputCharacteristic);
SAME_FIELD(output_presence, GetOutputCharacteristic);
SAME_FIELD(input_memory, GetInputMemoryType);
SAME_FIELD(least_variadic_inputs, GetVariadicInputMinArity);
SAME_FIELD(variadic_inputs_alike, GetVariadicInputHomogeneity);
SAME_FIELD(least_variadic_outputs, GetVariadicOutputMinArity);
SAME_FIELD(variadic_outputs_alike, GetVariadicOutputHomogeneity);
SAME_FIELD(create_kernel_v2, CreateKernelV2);
SAME_FIELD(compute_v2, KernelComputeV2);
static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ours::ApiBase, get_api));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ours::ApiBase, version));

#define SAME_NUMBER(number, name) static_assert(static_cast<int>(number) == name)

SAME_NUMBER(ours::ErrorCode::kFail, ORT_FAIL);
SAME_NUMBER(ours::ErrorCode::kInvalidArgument, ORT_INVALID_ARGUMENT);
SAME_NUMBER(ours::ElementType::kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_NUMBER(ours::ElementType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
SAME_NUMBER(ours::Presence::kRequired, INPUT_OUTPUT_REQUIRED);
SAME_NUMBER(ours::Presence::kOptional, INPUT_OUTPUT_OPTIONAL);
SAME_NUMBER(ours::Memory::kDefault, OrtMemTypeDefault);
static_assert(ours::kApiVersion <= ORT_API_VERSION);
