// The door of the library: onnxruntime calls it when the library is registered with a session's
// options.
#include <map>
#include <mutex>

#include "cosine_nearest.h"
#include "host.h"

namespace {

using namespace robustad::ort;

// One domain for each onnxruntime of the process, kept to its end: sessions refer to it.
CustomOpDomain* domain(const ApiBase* base, const Api* api) {
    static std::mutex mutex;
    static std::map<const ApiBase*, CustomOpDomain*> domains;
    const std::lock_guard<std::mutex> lock(mutex);
    CustomOpDomain*& ours = domains[base];
    if (ours == nullptr) {
        CustomOpDomain* made = nullptr;
        call<CreateCustomOpDomain>(api, "robustad", &made);
        call<CustomOpDomainAdd>(api, made, cosine_nearest());
        ours = made;
    }
    return ours;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(
    SessionOptions* options, const ApiBase* base) {
    const Api* api = base->get_api(kApiVersion);
    if (api == nullptr)  // statuses are as old as the interface
        return function<CreateStatus>(base->get_api(1))(
            ErrorCode::kFail, "robustad's operators need onnxruntime 1.20 or newer");
    return guarded(api, [&] { call<AddCustomOpDomain>(api, options, domain(base, api)); });
}
