// Threads that belong to a host program: work is handed to them where OpenMP would start its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

namespace robustad {

class Pool {
  public:
    virtual ~Pool() = default;
    // How many of its threads may work at once, or a guess: tasks are cut for that many.
    virtual int threads() const = 0;
    // Calls task(data, i) for each i < count, several at once, and returns when all have. The task
    // does not throw.
    virtual void each(std::int64_t count, void (*task)(void* data, std::int64_t i),
                      void* data) const = 0;
};

// body(i) for each i < count. What a body throws first is thrown again once all have returned.
template <typename Body>
void run(const Pool& pool, std::int64_t count, const Body& body) {
    struct Shared {
        const Body& body;
        std::atomic<bool> failed{false};
        std::exception_ptr error;
    } shared{body, {}, {}};
    pool.each(
        count,
        [](void* data, std::int64_t i) {
            Shared& ours = *static_cast<Shared*>(data);
            if (ours.failed) return;
            try {
                ours.body(i);
            } catch (...) {
                if (!ours.failed.exchange(true)) ours.error = std::current_exception();
            }
        },
        &shared);
    if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace robustad
