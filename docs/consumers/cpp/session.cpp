#include "session.h"

#include <dlfcn.h>

#include "errors.h"

namespace {

constexpr std::uint32_t kApiVersion = 20;  // of onnxruntime 1.20, the oldest that robustad takes

const OrtApi* load(const std::string& library) {
    const std::string name = library.empty() ? "libonnxruntime.so.1" : library;
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: it has threads
    if (handle == nullptr)
        throw InputError(name + ": cannot be loaded: " + dlerror() +
                         (library.empty() ? "; name onnxruntime's library by --library" : ""));
    using GetBase = const OrtApiBase* (*)();
    const auto base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
    if (base == nullptr) throw InputError(name + ": not onnxruntime's library");
    const OrtApi* api = base()->GetApi(kApiVersion);
    if (api == nullptr)
        throw InputError(name + ": is onnxruntime " + base()->GetVersionString() +
                         ", expected 1.20 or newer");
    return api;
}

}  // namespace

Session::Session(const std::string& library, const std::string& model, int threads)
    : api_(load(library)) {
    OrtEnv* env = nullptr;
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "score", &env));
    env_ = {env, api_->ReleaseEnv};
    OrtMemoryInfo* memory = nullptr;
    check(api_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_ = {memory, api_->ReleaseMemoryInfo};
    OrtSessionOptions* made = nullptr;
    check(api_->CreateSessionOptions(&made));
    const Owned<OrtSessionOptions> options(made, api_->ReleaseSessionOptions);
    // Below errors, it only reports that calibration and policy can be overridden.
    check(api_->SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_ERROR));
    check(api_->SetIntraOpNumThreads(made, threads));
    OrtSession* session = nullptr;
    try {
        check(api_->CreateSession(env, model.c_str(), made, &session));
    } catch (const std::exception& error) {
        throw InputError(model + ": not an ONNX file that can be run: " + error.what());
    }
    session_ = {session, api_->ReleaseSession};
}

std::optional<std::string> Session::metadata(const char* key) const {
    OrtModelMetadata* found = nullptr;
    check(api_->SessionGetModelMetadata(session_.get(), &found));
    const Owned<OrtModelMetadata> owned(found, api_->ReleaseModelMetadata);
    OrtAllocator* allocator = nullptr;  // onnxruntime's own, not to be released
    check(api_->GetAllocatorWithDefaultOptions(&allocator));
    char* text = nullptr;
    check(api_->ModelMetadataLookupCustomMetadataMap(found, allocator, key, &text));
    if (text == nullptr) return std::nullopt;
    std::string out(text);
    check(api_->AllocatorFree(allocator, text));
    return out;
}

std::vector<std::vector<double>> Session::run(const Image& image, std::vector<const char*> outputs,
                                              std::optional<double> threshold) const {
    // Inputs are declared without const, but only read.
    auto* pixels = const_cast<std::uint8_t*>(image.pixels.data());
    std::vector<Value> fed;
    fed.push_back(tensor(pixels, image.pixels.size(), {1, image.height, image.width, 3},
                         ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8));
    std::vector<const char*> names{"image"};
    if (threshold) {
        fed.push_back(
            tensor(&*threshold, sizeof(double), {}, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE));
        names.push_back("policy_threshold");
    }
    std::vector<const OrtValue*> inputs;
    for (const Value& one : fed) inputs.push_back(one.get());
    std::vector<OrtValue*> made(outputs.size(), nullptr);
    OrtStatus* status = api_->Run(session_.get(), nullptr, names.data(), inputs.data(),
                                  inputs.size(), outputs.data(), outputs.size(), made.data());
    std::vector<Value> found;
    for (OrtValue* one : made) found.emplace_back(one, api_->ReleaseValue);
    check(status);
    std::vector<std::vector<double>> out;
    for (const Value& one : found) out.push_back(numbers(one.get()));
    return out;
}

Session::Value Session::tensor(void* data, std::size_t bytes,
                               const std::vector<std::int64_t>& shape,
                               ONNXTensorElementDataType type) const {
    OrtValue* out = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(),
                                               shape.size(), type, &out));
    return {out, api_->ReleaseValue};
}

std::vector<double> Session::numbers(OrtValue* value) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_->GetTensorTypeAndShape(value, &info));
    const Owned<OrtTensorTypeAndShapeInfo> owned(info, api_->ReleaseTensorTypeAndShapeInfo);
    ONNXTensorElementDataType type{};
    std::size_t count = 0;
    check(api_->GetTensorElementType(info, &type));
    check(api_->GetTensorShapeElementCount(info, &count));
    void* data = nullptr;
    check(api_->GetTensorMutableData(value, &data));
    const auto copied = [&](const auto* from) { return std::vector<double>(from, from + count); };
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return copied(static_cast<const float*>(data));
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
        return copied(static_cast<const std::int64_t*>(data));
    throw std::runtime_error("an output of type " + std::to_string(type) +
                             ", expected float or int64");
}

void Session::check(OrtStatus* status) const {
    if (status == nullptr) return;
    const std::string message = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw std::runtime_error(message.substr(0, message.find('\n')));
}
