// onnxruntime's functions as a C++ program wants them: errors thrown, objects released.
#pragma once

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../pool.h"
#include "abi.h"

namespace robustad::ort {

// Throws what a status says, if it says anything.
inline void check(const Api* api, Status* status) {
    if (status == nullptr) return;
    const std::string message = function<GetErrorMessage>(api)(status);
    function<ReleaseStatus>(api)(status);
    throw std::runtime_error(message);
}

template <typename Wanted, typename... Arguments>
void call(const Api* api, Arguments... arguments) {
    check(api, function<Wanted>(api)(arguments...));
}

// Runs `body` and turns what it throws into a status: no exception may reach onnxruntime.
template <typename Body>
Status* guarded(const Api* api, const Body& body) {
    const auto create = function<CreateStatus>(api);
    try {
        body();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return create(ErrorCode::kInvalidArgument, error.what());
    } catch (const std::exception& error) {
        return create(ErrorCode::kFail, error.what());
    } catch (...) {
        return create(ErrorCode::kFail, "robustad: unknown error");
    }
}

// A tensor of onnxruntime's, in the type that the operator's description asked for.
struct Tensor {
    std::vector<std::int64_t> shape;
    void* data = nullptr;
};

inline Tensor tensor(const Api* api, const Value* value) {
    TensorInfo* info = nullptr;
    call<GetTensorTypeAndShape>(api, value, &info);
    Tensor out;
    try {
        std::size_t dimensions = 0;
        call<GetDimensionsCount>(api, static_cast<const TensorInfo*>(info), &dimensions);
        out.shape.resize(dimensions);
        call<GetDimensions>(api, static_cast<const TensorInfo*>(info), out.shape.data(),
                            dimensions);
    } catch (...) {
        function<ReleaseTensorInfo>(api)(info);
        throw;
    }
    function<ReleaseTensorInfo>(api)(info);
    // Inputs are read only; there is no such function for constant ones in the oldest version.
    call<GetTensorMutableData>(api, const_cast<Value*>(value), &out.data);
    return out;
}

// The threads of the session that runs an operator: as many as its options say.
class SessionPool final : public Pool {
  public:
    SessionPool(const Api* api, const KernelContext* context) : api_(api), context_(context) {}

    int threads() const override {  // their number is not told
        const unsigned cores = std::thread::hardware_concurrency();
        return cores > 0 ? static_cast<int>(cores) : 1;
    }

    void each(std::int64_t count, void (*task)(void*, std::int64_t), void* data) const override {
        struct Loop {
            void (*task)(void*, std::int64_t);
            void* data;
        } loop{task, data};
        call<KernelContextParallelFor>(
            api_, context_,
            +[](void* at, std::size_t i) {
                const Loop& one = *static_cast<const Loop*>(at);
                one.task(one.data, static_cast<std::int64_t>(i));
            },
            static_cast<std::size_t>(count), std::size_t{0}, static_cast<void*>(&loop));
    }

  private:
    const Api* api_;
    const KernelContext* context_;
};

}  // namespace robustad::ort
