// Plain C++ that the compiler may vectorise with whatever every machine of the target has.
#include <math.h>

#include <cstdint>
#include <cstring>

#include "attention_degree_kernels.h"

namespace robustad {
namespace {

constexpr int kRows = 4;

struct Vec {
    static constexpr std::int64_t width = 4;
    float v[4];
    Vec() : Vec(0.0f) {}
    explicit Vec(float x) : v{x, x, x, x} {}
    static Vec load(const float* p) {
        Vec x;
        for (int i = 0; i < 4; ++i) x.v[i] = p[i];
        return x;
    }
    void store(float* p) const {
        for (int i = 0; i < 4; ++i) p[i] = v[i];
    }
    float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
};

template <typename F>
inline Vec each(Vec a, Vec b, F f) {
    Vec x;
    for (int i = 0; i < 4; ++i) x.v[i] = f(a.v[i], b.v[i]);
    return x;
}

inline Vec operator+(Vec a, Vec b) { return each(a, b, [](float x, float y) { return x + y; }); }
inline Vec operator-(Vec a, Vec b) { return each(a, b, [](float x, float y) { return x - y; }); }
inline Vec operator*(Vec a, Vec b) { return each(a, b, [](float x, float y) { return x * y; }); }
inline Vec operator/(Vec a, Vec b) { return each(a, b, [](float x, float y) { return x / y; }); }
inline Vec fused(Vec a, Vec b, Vec c) { return a * b + c; }
// Of a NaN and a number these give the second argument.
inline Vec maximum(Vec a, Vec b) {
    return each(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Vec minimum(Vec a, Vec b) {
    return each(a, b, [](float x, float y) { return x < y ? x : y; });
}
// Adding 1.5 * 2^23 leaves no bits for a fraction.
inline Vec nearest(Vec a) { return (a + Vec(12582912.0f)) - Vec(12582912.0f); }
inline Vec times_power_of_two(Vec a, Vec n) {
    return each(a, n, [](float x, float y) {
        // y lies in [-126, 127]; a NaN must not be converted, and is one in x already
        const auto bits = (static_cast<std::uint32_t>((y == y ? y : 0.0f) + 127.0f)) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return x * power;
    });
}
inline Vec where_at_least(Vec a, Vec b, Vec value) {
    Vec x;
    for (int i = 0; i < 4; ++i) x.v[i] = a.v[i] >= b.v[i] ? value.v[i] : 0.0f;
    return x;
}

#include "attention_degree_body.h"

}  // namespace

const AttentionKernels* attention_kernels_portable() { return table("portable"); }

}  // namespace robustad
