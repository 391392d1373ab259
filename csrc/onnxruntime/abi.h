// The part of onnxruntime's C interface that the custom operators use, so that building them needs
// no header of it. That interface is one table of functions, which versions append to and change
// nothing in; `Slot` is a function's place in it. csrc/tests/onnxruntime_abi.cpp compares all of this
// with onnxruntime's own header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace robustad::ort {

// Of the table. Of the onnxruntime that has it: 1.20, the oldest that robustad takes.
constexpr std::uint32_t kApiVersion = 20;
// Of the description of an operator: the fields of `CustomOp`, none of the later ones.
constexpr std::uint32_t kCustomOpVersion = 16;

// onnxruntime's own objects, never looked into.
struct Api;
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct Status;
struct TensorInfo;
struct Value;

enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum class ElementType : int { kFloat = 1, kInt64 = 7 };
enum class Presence : int { kRequired = 0, kOptional = 1 };
enum class Memory : int { kDefault = 0 };

struct ApiBase {
    const Api* (*get_api)(std::uint32_t version);  // null for a version it does not have
    const char* (*version)();
};

struct CustomOp {
    std::uint32_t op_version;
    void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
    const char* (*name)(const CustomOp*);
    const char* (*provider)(const CustomOp*);
    ElementType (*input_type)(const CustomOp*, std::size_t);
    std::size_t (*inputs)(const CustomOp*);
    ElementType (*output_type)(const CustomOp*, std::size_t);
    std::size_t (*outputs)(const CustomOp*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    Presence (*input_presence)(const CustomOp*, std::size_t);
    Presence (*output_presence)(const CustomOp*, std::size_t);
    Memory (*input_memory)(const CustomOp*, std::size_t);
    int (*least_variadic_inputs)(const CustomOp*);
    int (*variadic_inputs_alike)(const CustomOp*);
    int (*least_variadic_outputs)(const CustomOp*);
    int (*variadic_outputs_alike)(const CustomOp*);
    // Called in place of those without a status.
    Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
    Status* (*compute_v2)(void*, KernelContext*);
};

// A function of the table: its place and its type.
template <std::size_t Place, typename Signature>
struct Slot {
    static constexpr std::size_t place = Place;
    using Function = Signature*;
};

using CreateStatus = Slot<0, Status*(ErrorCode, const char*)>;
using GetErrorMessage = Slot<2, const char*(const Status*)>;
using CreateCustomOpDomain = Slot<26, Status*(const char*, CustomOpDomain**)>;
using CustomOpDomainAdd = Slot<27, Status*(CustomOpDomain*, const CustomOp*)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void**)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, std::size_t*)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, std::int64_t*, std::size_t)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo**)>;
using KernelInfoGetAttributeInt64 =
    Slot<86, Status*(const KernelInfo*, const char*, std::int64_t*)>;
using KernelContextGetInput =
    Slot<90, Status*(const KernelContext*, std::size_t, const Value**)>;
using KernelContextGetOutput = Slot<91, Status*(KernelContext*, std::size_t, const std::int64_t*,
                                                std::size_t, Value**)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTensorInfo = Slot<99, void(TensorInfo*)>;
using KernelInfoGetConstantInput =
    Slot<249, Status*(const KernelInfo*, std::size_t, int*, const Value**)>;
using KernelContextParallelFor = Slot<274, Status*(const KernelContext*, void (*)(void*, std::size_t),
                                                   std::size_t, std::size_t, void*)>;

template <typename Wanted>
typename Wanted::Function function(const Api* api) {
    using Entry = void (*)();
    return reinterpret_cast<typename Wanted::Function>(
        reinterpret_cast<const Entry*>(api)[Wanted::place]);
}

}  // namespace robustad::ort
