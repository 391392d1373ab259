// The directions in which the rows of a bank differ most. No torch in here.
#pragma once

#include <cstdint>

namespace robustad {

// axes: [count, padded], of length 1 less a little and at right angles to each other: with P their
// matrix, |P x| <= |x| for every x. Found by orthogonal iteration on some of the rows.
// mean: [padded], zeros from `dim` on. Returns the part of the variance, 0..1, that they leave out.
double principal_axes(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                      const float* mean, std::int64_t count, float* axes);

}  // namespace robustad
