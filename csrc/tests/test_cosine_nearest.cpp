// The operator for onnxruntime in a host made up of the functions that it calls. Run under sanitizers
// by `make sanitize`; tests/runtime/test_custom_ops.py runs it in onnxruntime itself.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../onnxruntime/abi.h"

// Declared as onnxruntime's objects, which nobody but the host looks into.
namespace robustad::ort {

struct Status {
    ErrorCode code;
    std::string message;
};
struct CustomOpDomain {
    std::string name;
    std::vector<const CustomOp*> operators;
};
struct SessionOptions {
    std::vector<CustomOpDomain*> domains;
};
struct Value {
    std::vector<std::int64_t> shape;
    std::vector<float> floats;
    std::vector<std::int64_t> integers;
};
struct TensorInfo {
    const Value* value;
};
struct KernelInfo {
    std::int64_t k;  // negative for no such attribute
    const Value* bank;
};
struct KernelContext {
    std::vector<Value*> inputs;
    std::vector<Value> outputs;  // those that are wanted
};

}  // namespace robustad::ort

using namespace robustad::ort;
extern "C" Status* RegisterCustomOps(SessionOptions* options, const ApiBase* base);

namespace {

std::atomic<int> held{0};     // statuses and infos that were not released
std::atomic<int> threads{3};  // of the pool
std::atomic<int> handed_out{0};
bool refuse_loops = false;

Status* made(ErrorCode code, const char* message) {
    ++held;
    return new Status{code, message};
}

using Entry = void (*)();
Entry table[300];

template <typename Wanted>
void fill(typename Wanted::Function function) {
    table[Wanted::place] = reinterpret_cast<Entry>(function);
}

Value* output(KernelContext* context, std::size_t index, const std::int64_t* shape,
              std::size_t dimensions) {
    if (index >= context->outputs.size()) return nullptr;
    Value& value = context->outputs[index];
    value.shape.assign(shape, shape + dimensions);
    std::size_t size = 1;
    for (const std::int64_t edge : value.shape) size *= static_cast<std::size_t>(edge);
    if (index == 0) value.floats.assign(size, -1.0f);
    if (index == 1) value.integers.assign(size, -1);
    return &value;
}

void loop(void (*task)(void*, std::size_t), std::size_t count, void* data) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i)
        team.emplace_back([&] {
            for (std::size_t at = next++; at < count; at = next++) task(data, at);
        });
    for (std::thread& one : team) one.join();
    handed_out += static_cast<int>(count);
}

void fill_table() {
    fill<CreateStatus>(made);
    fill<GetErrorMessage>([](const Status* status) { return status->message.c_str(); });
    fill<ReleaseStatus>([](Status* status) {
        --held;
        delete status;
    });
    fill<CreateCustomOpDomain>([](const char* name, CustomOpDomain** out) -> Status* {
        static std::vector<CustomOpDomain> domains(8);  // for the life of the process
        static std::size_t used = 0;
        *out = &domains.at(used++);
        (*out)->name = name;
        return nullptr;
    });
    fill<CustomOpDomainAdd>([](CustomOpDomain* domain, const CustomOp* op) -> Status* {
        domain->operators.push_back(op);
        return nullptr;
    });
    fill<AddCustomOpDomain>([](SessionOptions* options, CustomOpDomain* domain) -> Status* {
        options->domains.push_back(domain);
        return nullptr;
    });
    fill<GetTensorMutableData>([](Value* value, void** out) -> Status* {
        *out = value->integers.empty() ? static_cast<void*>(value->floats.data())
                                       : static_cast<void*>(value->integers.data());
        return nullptr;
    });
    fill<GetTensorTypeAndShape>([](const Value* value, TensorInfo** out) -> Status* {
        ++held;
        *out = new TensorInfo{value};
        return nullptr;
    });
    fill<ReleaseTensorInfo>([](TensorInfo* info) {
        --held;
        delete info;
    });
    fill<GetDimensionsCount>([](const TensorInfo* info, std::size_t* out) -> Status* {
        *out = info->value->shape.size();
        return nullptr;
    });
    fill<GetDimensions>([](const TensorInfo* info, std::int64_t* out, std::size_t) -> Status* {
        if (info->value->shape.size() == 7) return made(ErrorCode::kFail, "seven dimensions");
        std::copy(info->value->shape.begin(), info->value->shape.end(), out);
        return nullptr;
    });
    fill<KernelInfoGetAttributeInt64>(
        [](const KernelInfo* info, const char* name, std::int64_t* out) -> Status* {
            if (info->k < 0 || std::strcmp(name, "k") != 0)
                return made(ErrorCode::kFail, "no such attribute");
            *out = info->k;
            return nullptr;
        });
    fill<KernelInfoGetConstantInput>(
        [](const KernelInfo* info, std::size_t index, int* constant, const Value** out) -> Status* {
            *constant = index == 1 && info->bank != nullptr;
            *out = *constant ? info->bank : nullptr;
            return nullptr;
        });
    fill<KernelContextGetInput>(
        [](const KernelContext* context, std::size_t index, const Value** out) -> Status* {
            *out = context->inputs.at(index);
            return nullptr;
        });
    fill<KernelContextGetOutput>([](KernelContext* context, std::size_t index,
                                    const std::int64_t* shape, std::size_t dimensions,
                                    Value** out) -> Status* {
        *out = output(context, index, shape, dimensions);
        return nullptr;
    });
    fill<KernelContextParallelFor>([](const KernelContext*, void (*task)(void*, std::size_t),
                                      std::size_t count, std::size_t, void* data) -> Status* {
        if (refuse_loops) return made(ErrorCode::kFail, "no threads today");
        loop(task, count, data);
        return nullptr;
    });
}

const Api* api_of(std::uint32_t version) {
    return version <= kApiVersion ? reinterpret_cast<const Api*>(table) : nullptr;
}
const Api* old_api_of(std::uint32_t version) {
    return version < kApiVersion ? reinterpret_cast<const Api*>(table) : nullptr;
}

void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("cosine_nearest: %s\n", what);
    std::exit(1);
}

// The message of a status, which is released; empty for none.
std::string said(Status* status) {
    if (status == nullptr) return "";
    const std::string message = status->message;
    --held;
    delete status;
    return message;
}

void expect_message(Status* status, const char* part) {
    const std::string message = said(status);
    if (message.find(part) == std::string::npos)
        std::printf("got \"%s\", expected \"%s\"\n", message.c_str(), part);
    expect(message.find(part) != std::string::npos, "another message");
}

Value rows_of(std::int64_t rows, std::int64_t dim, unsigned seed, bool unit) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Value value{{rows, dim}, {}, {}};
    for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<float> one(static_cast<std::size_t>(dim));
        double square = 0;
        for (float& x : one) {
            x = normal(random);
            square += static_cast<double>(x) * x;
        }
        for (const float x : one)
            value.floats.push_back(unit ? static_cast<float>(x / std::sqrt(square)) : x);
    }
    return value;
}

class Node {
  public:
    Node(const CustomOp* op, std::int64_t k, const Value* bank) : op_(op) {
        const KernelInfo info{k, bank};
        error_ = said(op->create_kernel_v2(op, api_of(1), &info, &kernel_));
    }
    ~Node() {
        if (kernel_ != nullptr) op_->destroy(kernel_);
    }
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    const std::string& error() const { return error_; }
    Status* run(KernelContext& context) const { return op_->compute_v2(kernel_, &context); }

  private:
    const CustomOp* op_;
    void* kernel_ = nullptr;
    std::string error_;
};

void compare(const KernelContext& context, std::int64_t k) {
    const Value &features = *context.inputs[0], &bank = *context.inputs[1];
    const auto dim = static_cast<std::size_t>(bank.shape[1]);
    const auto rows = static_cast<std::size_t>(bank.shape[0]);
    const auto wanted = static_cast<std::size_t>(k);
    expect(context.outputs[0].shape == std::vector<std::int64_t>{features.shape[0], k}, "shape");
    for (std::size_t query = 0; query < static_cast<std::size_t>(features.shape[0]); ++query) {
        std::vector<double> exact(rows);
        double square = 0;
        for (std::size_t i = 0; i < dim; ++i)
            square += std::pow(static_cast<double>(features.floats[query * dim + i]), 2);
        for (std::size_t row = 0; row < rows; ++row) {
            double product = 0;
            for (std::size_t i = 0; i < dim; ++i)
                product += static_cast<double>(features.floats[query * dim + i]) *
                           bank.floats[row * dim + i];
            exact[row] = 1 - product / std::sqrt(square);
        }
        std::vector<double> sorted = exact;
        std::sort(sorted.begin(), sorted.end());
        for (std::size_t j = 0; j < wanted; ++j) {
            const float found = context.outputs[0].floats[query * wanted + j];
            expect(std::fabs(found - sorted[j]) <= 2e-6, "wrong distance");
            if (context.outputs.size() < 2) continue;
            const auto row = static_cast<std::size_t>(context.outputs[1].integers[query * wanted + j]);
            expect(row < rows && exact[row] - sorted[j] <= 1e-6, "wrong row");
        }
    }
}

void check_results(const CustomOp* op) {
    for (const std::int64_t k : {1, 3})
        for (const std::int64_t dim : {5, 32, 100}) {
            Value bank = rows_of(700, dim, 1, true), features = rows_of(130, dim, 2, false);
            for (const bool constant : {true, false})
                for (const std::size_t outputs : {1, 2}) {
                    const Node node(op, k == 1 ? -1 : k, constant ? &bank : nullptr);
                    expect(node.error().empty(), "not created");
                    KernelContext context{{&features, &bank}, std::vector<Value>(outputs)};
                    expect(said(node.run(context)).empty(), "not run");
                    compare(context, k);
                }
        }
    expect(handed_out > 0 || std::thread::hardware_concurrency() == 1, "the pool was not used");
    Value bank = rows_of(20, 4, 1, true), none{{0, 4}, {}, {}};
    const Node node(op, 2, &bank);
    KernelContext context{{&none, &bank}, std::vector<Value>(2)};
    expect(said(node.run(context)).empty(), "no rows");
    expect(context.outputs[0].shape == std::vector<std::int64_t>{0, 2}, "shape of no rows");
}

void check_concurrency(const CustomOp* op) {
    Value bank = rows_of(900, 48, 1, true), features = rows_of(64, 48, 2, false);
    const Node node(op, 2, &bank);
    KernelContext first{{&features, &bank}, std::vector<Value>(2)};
    expect(said(node.run(first)).empty(), "not run");
    std::vector<std::thread> users;
    for (int i = 0; i < 4; ++i)
        users.emplace_back([&] {
            for (int turn = 0; turn < 5; ++turn) {
                KernelContext own{{&features, &bank}, std::vector<Value>(2)};
                expect(said(node.run(own)).empty(), "not run by several");
                expect(own.outputs[0].floats == first.outputs[0].floats &&
                           own.outputs[1].integers == first.outputs[1].integers,
                       "other results by several");
            }
        });
    for (std::thread& one : users) one.join();
}

void check_refusals(const CustomOp* op) {
    Value bank = rows_of(20, 4, 1, true);
    const auto creation = [&](std::int64_t k, const Value& value, const char* part) {
        const Node node(op, k, &value);
        if (node.error().find(part) == std::string::npos) std::printf("%s\n", node.error().c_str());
        expect(node.error().find(part) != std::string::npos, part);
    };
    creation(0, bank, "k: expected 1..20 (the bank's rows), got 0");
    creation(21, bank, "k: expected 1..20 (the bank's rows), got 21");
    creation(1, Value{{20}, bank.floats, {}}, "bank: expected a shape (N, D), neither of them 0, got (20)");
    creation(1, Value{{0, 4}, {}, {}}, "got (0, 4)");
    creation(1, Value{{1, 1, 1, 1, 1, 1, 1}, {1.0f}, {}}, "seven dimensions");
    Value longer = bank;
    longer.floats[5] += 1.0f;
    creation(1, longer, "at row 1");
    longer.floats[5] = std::numeric_limits<float>::quiet_NaN();
    creation(1, longer, "expected rows of length 1 or 0, got one of length nan at row 1");
    setenv("ROBUSTAD_COSINE_NN", "abacus", 1);
    creation(1, bank, "ROBUSTAD_COSINE_NN: expected a path this processor has (");
    setenv("ROBUSTAD_COSINE_NN", "portable", 1);
    creation(1, bank, "");
    unsetenv("ROBUSTAD_COSINE_NN");

    const Node node(op, 1, &bank);
    Value narrow = rows_of(3, 5, 2, false), flat{{4}, {1, 2, 3, 4}, {}};
    KernelContext context{{&narrow, &bank}, std::vector<Value>(2)};
    expect_message(node.run(context), "features: expected a shape (M, 4), got (3, 5)");
    context.inputs[0] = &flat;
    expect_message(node.run(context), "features: expected a shape (M, 4), got (4)");
    if (std::thread::hardware_concurrency() > 1) {
        Value large = rows_of(900, 64, 1, true), features = rows_of(64, 64, 2, false);
        const Node other(op, 1, &large);
        KernelContext wide{{&features, &large}, std::vector<Value>(2)};
        refuse_loops = true;
        expect_message(other.run(wide), "no threads today");
        refuse_loops = false;
    }
}

}  // namespace

int main() {
    fill_table();
    const ApiBase base{api_of, nullptr}, other{api_of, nullptr}, old{old_api_of, nullptr};
    SessionOptions options, again, elsewhere;
    expect(said(RegisterCustomOps(&options, &base)).empty(), "not registered");
    expect(said(RegisterCustomOps(&again, &base)).empty(), "not registered again");
    expect(said(RegisterCustomOps(&elsewhere, &other)).empty(), "not registered elsewhere");
    expect(options.domains.size() == 1 && options.domains == again.domains, "not one domain");
    expect(elsewhere.domains != options.domains, "a domain of two hosts");
    expect(options.domains[0]->name == "robustad", "another domain");
    expect_message(RegisterCustomOps(&options, &old), "need onnxruntime 1.20 or newer");
    const std::vector<const CustomOp*>& operators = options.domains[0]->operators;
    expect(operators.size() == 1, "other operators");
    const CustomOp* op = operators[0];
    expect(std::strcmp(op->name(op), "CosineNearest") == 0 && op->provider(op) == nullptr &&
               op->inputs(op) == 2 && op->outputs(op) == 2 &&
               op->input_type(op, 1) == ElementType::kFloat &&
               op->output_type(op, 1) == ElementType::kInt64 &&
               op->output_presence(op, 1) == Presence::kOptional,
           "another description");
    check_results(op);
    check_concurrency(op);
    check_refusals(op);
    expect(held == 0, "something of the host's was not released");
    std::puts("cosine_nearest: passed");
    return 0;
}
