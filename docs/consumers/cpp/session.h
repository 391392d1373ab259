// An ONNX file in onnxruntime, whose library is loaded when the program runs: one program for
// whatever build of it a machine has.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "image.h"
#include "onnxruntime.h"

class Session {
  public:
    // `library`: path of libonnxruntime, or empty for the system's; `threads`: 0 for as many as
    // there are cores. Throws InputError, which names the file at fault.
    Session(const std::string& library, const std::string& model, int threads);

    // Of the file's metadata, if it has the key.
    std::optional<std::string> metadata(const char* key) const;

    // Outputs for an image, flat, in the order of their names. `threshold`: in place of the file's
    // own `policy_threshold`.
    std::vector<std::vector<double>> run(const Image& image, std::vector<const char*> outputs,
                                         std::optional<double> threshold = {}) const;

  private:
    template <typename Object>
    using Owned = std::unique_ptr<Object, void (*)(Object*)>;
    using Value = Owned<OrtValue>;

    void check(OrtStatus* status) const;  // throws what it says, if it says anything
    Value tensor(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                 ONNXTensorElementDataType type) const;
    std::vector<double> numbers(OrtValue* value) const;

    const OrtApi* api_;
    Owned<OrtEnv> env_{nullptr, nullptr};
    Owned<OrtMemoryInfo> memory_{nullptr, nullptr};
    Owned<OrtSession> session_{nullptr, nullptr};
};
