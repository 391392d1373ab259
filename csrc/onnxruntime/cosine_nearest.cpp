#include "cosine_nearest.h"

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>

#include "../cosine_nn.h"
#include "../cosine_nn_path.h"
#include "host.h"

namespace robustad::ort {
namespace {

constexpr char kPathVariable[] = "ROBUSTAD_COSINE_NN";

std::string described(const std::vector<std::int64_t>& shape) {
    std::string text = "(";
    for (const std::int64_t size : shape)
        text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + ")";
}

[[noreturn]] void refuse(const std::string& reason) {
    throw std::invalid_argument("robustad.CosineNearest: " + reason);
}

void check_lengths(const float* unit, std::int64_t rows, std::int64_t dim) {
    for (std::int64_t row = 0; row < rows; ++row) {
        double square = 0;
        for (std::int64_t i = 0; i < dim; ++i)
            square += static_cast<double>(unit[row * dim + i]) * unit[row * dim + i];
        if (!(std::fabs(square - 1) <= 1e-4 || square == 0))  // also NaN
            refuse("bank: expected rows of length 1 or 0, got one of length " +
                   std::to_string(std::sqrt(square)) + " at row " + std::to_string(row));
    }
}

// Squared length of the mean row: near 1 where all point one way.
double alignment(const float* unit, std::int64_t rows, std::int64_t dim) {
    std::vector<double> sums(static_cast<std::size_t>(dim));
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < dim; ++i)
            sums[static_cast<std::size_t>(i)] += unit[row * dim + i];
    double square = 0;
    for (const double x : sums) square += x * x;
    return square / (static_cast<double>(rows) * static_cast<double>(rows));
}

// As robustad.ops chooses: bfloat16 can't tell vectors apart that all point one way.
const CosineNnPath& path_for(const float* unit, std::int64_t rows, std::int64_t dim) {
    const char* forced = std::getenv(kPathVariable);
    if (forced != nullptr && *forced != '\0') {
        try {
            return cosine_nn_path(forced);
        } catch (const std::invalid_argument& error) {
            refuse(std::string(kPathVariable) + ": " + error.what());
        }
    }
    const auto paths = cosine_nn_paths();
    const bool coarse = paths[0]->layout == CosineNnLayout::kBfloat16 && paths.size() > 1;
    return coarse && alignment(unit, rows, dim) > 0.75 ? *paths[1] : *paths[0];
}

// A bank in the order in which the search reads it. The float32 vectors stay where they are.
class Packed {
  public:
    Packed(const Tensor& bank, std::int64_t k) {
        if (bank.shape.size() != 2 || bank.shape[0] < 1 || bank.shape[1] < 1)
            refuse("bank: expected a shape (N, D), neither of them 0, got " +
                   described(bank.shape));
        rows = bank.shape[0];
        dim = bank.shape[1];
        if (k < 1 || k > rows)
            refuse("k: expected 1.." + std::to_string(rows) + " (the bank's rows), got " +
                   std::to_string(k));
        const auto* unit = static_cast<const float*>(bank.data);
        check_lengths(unit, rows, dim);
        path = &path_for(unit, rows, dim);
        const std::size_t bytes = cosine_nn_packed_bytes(*path, rows, dim);
        // Panels are read in whole cache lines.
        data_.reset(static_cast<unsigned char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
        if (!data_) throw std::bad_alloc();
        cosine_nn_pack(*path, unit, rows, dim, data_.get(), 1);
    }

    const unsigned char* data() const { return data_.get(); }

    const CosineNnPath* path;
    std::int64_t rows, dim;

  private:
    struct Free {
        void operator()(unsigned char* at) const { std::free(at); }
    };
    std::unique_ptr<unsigned char, Free> data_;
};

// One node of a graph. Runs at once in several threads: nothing in it changes after its creation.
class Kernel {
  public:
    Kernel(const Api* api, const KernelInfo* info) : api_(api) {
        Status* missing = function<KernelInfoGetAttributeInt64>(api)(info, "k", &k_);
        if (missing != nullptr) {
            function<ReleaseStatus>(api)(missing);
            k_ = 1;
        }
        int constant = 0;
        const Value* bank = nullptr;
        call<KernelInfoGetConstantInput>(api, info, std::size_t{1}, &constant, &bank);
        if (constant != 0 && bank != nullptr)
            packed_ = std::make_unique<Packed>(tensor(api, bank), k_);
    }

    const Api* api() const { return api_; }

    void compute(KernelContext* context) const {
        const Tensor features = input(context, 0), bank = input(context, 1);
        std::unique_ptr<Packed> own;  // of a bank that the graph computes
        if (!packed_) own = std::make_unique<Packed>(bank, k_);
        const Packed& packed = own ? *own : *packed_;
        if (features.shape.size() != 2 || features.shape[1] != packed.dim)
            refuse("features: expected a shape (M, " + std::to_string(packed.dim) + "), got " +
                   described(features.shape));
        const std::int64_t count = features.shape[0];
        auto* distances = static_cast<float*>(output(context, 0, count));
        auto* indices = static_cast<std::int64_t*>(output(context, 1, count));
        if (count == 0) return;
        std::unique_ptr<std::int64_t[]> unwanted;
        if (indices == nullptr) {
            unwanted.reset(new std::int64_t[static_cast<std::size_t>(count * k_)]);
            indices = unwanted.get();
        }
        cosine_nn_search(*packed.path, static_cast<const float*>(features.data), count, packed.dim,
                         static_cast<const float*>(bank.data), packed.rows, packed.data(), k_,
                         distances, indices, SessionPool(api_, context));
    }

  private:
    Tensor input(const KernelContext* context, std::size_t index) const {
        const Value* value = nullptr;
        call<KernelContextGetInput>(api_, context, index, &value);
        return tensor(api_, value);
    }

    // Null for an output that nothing reads.
    void* output(KernelContext* context, std::size_t index, std::int64_t count) const {
        const std::int64_t shape[] = {count, k_};
        Value* value = nullptr;
        call<KernelContextGetOutput>(api_, context, index, shape, std::size_t{2}, &value);
        void* data = nullptr;
        if (value != nullptr) call<GetTensorMutableData>(api_, value, &data);
        return data;
    }

    const Api* api_;
    std::int64_t k_ = 1;
    std::unique_ptr<Packed> packed_;
};

constexpr CustomOp kDescription = {
    kCustomOpVersion,
    nullptr,
    [](const CustomOp*) { return "CosineNearest"; },
    [](const CustomOp*) -> const char* { return nullptr; },  // the CPU
    [](const CustomOp*, std::size_t) { return ElementType::kFloat; },
    [](const CustomOp*) { return std::size_t{2}; },
    [](const CustomOp*, std::size_t index) {
        return index == 0 ? ElementType::kFloat : ElementType::kInt64;
    },
    [](const CustomOp*) { return std::size_t{2}; },
    nullptr,
    [](void* kernel) { delete static_cast<Kernel*>(kernel); },
    [](const CustomOp*, std::size_t) { return Presence::kRequired; },
    [](const CustomOp*, std::size_t index) {
        return index == 0 ? Presence::kRequired : Presence::kOptional;
    },
    [](const CustomOp*, std::size_t) { return Memory::kDefault; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*) { return 0; },
    [](const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) {
        return guarded(api, [&] { *kernel = new Kernel(api, info); });
    },
    [](void* kernel, KernelContext* context) {
        const Kernel& ours = *static_cast<const Kernel*>(kernel);
        return guarded(ours.api(), [&] { ours.compute(context); });
    },
};

}  // namespace

const CustomOp* cosine_nearest() { return &kDescription; }

}  // namespace robustad::ort
