// The part of onnxruntime's C interface that this program uses, under the names of its own header
// onnxruntime_c_api.h, for machines that have the library without headers (pip and npm bring no
// headers). The interface is one table of functions, which versions append to and change nothing
// in: `not_used` keeps the places of functions that are not called here. With the real header
// (make ORT_INCLUDE=FOLDER) this file is not read; check_subset.cpp compares the two.
#pragma once

#include <cstddef>
#include <cstdint>

// onnxruntime's own objects, never looked into.
struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtModelMetadata;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
};

struct OrtApi {
    template <std::size_t Count>
    using Gap = void (*[Count])();

    Gap<2> not_used_0;
    const char* (*GetErrorMessage)(const OrtStatus*);
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);
    Gap<3> not_used_4;
    OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*,
                                OrtSession**);
    Gap<1> not_used_8;
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names,
                      const OrtValue* const* inputs, std::size_t, const char* const* output_names,
                      std::size_t, OrtValue** outputs);
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
    Gap<11> not_used_11;
    OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int);
    Gap<1> not_used_23;
    OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int);
    Gap<24> not_used_25;
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data,
                                                 std::size_t bytes, const std::int64_t* shape,
                                                 std::size_t, ONNXTensorElementDataType,
                                                 OrtValue**);
    Gap<1> not_used_50;
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);
    Gap<8> not_used_52;
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*,
                                       ONNXTensorElementDataType*);
    Gap<3> not_used_61;
    OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo*, std::size_t*);
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
    Gap<3> not_used_66;
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
    Gap<6> not_used_70;
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
    Gap<1> not_used_77;
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
    Gap<13> not_used_79;
    void (*ReleaseEnv)(OrtEnv*);
    void (*ReleaseStatus)(OrtStatus*);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
    void (*ReleaseSession)(OrtSession*);
    void (*ReleaseValue)(OrtValue*);
    Gap<2> not_used_97;
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
    void (*ReleaseSessionOptions)(OrtSessionOptions*);
    Gap<10> not_used_101;
    OrtStatus* (*SessionGetModelMetadata)(const OrtSession*, OrtModelMetadata**);
    Gap<4> not_used_112;
    OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata*, OrtAllocator*,
                                                       const char* key, char** value);
    Gap<1> not_used_117;
    void (*ReleaseModelMetadata)(OrtModelMetadata*);
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(std::uint32_t version);  // null for a version it does not have
    const char* (*GetVersionString)();
};
