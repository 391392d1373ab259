// Mean of the k largest values of each row, without sorting the rest. No torch in here.
#pragma once

#include <cstdint>

namespace robustad {

// scores:  [rows, columns], contiguous. NaN compares as the largest value, as torch.topk has it.
// means:   [rows]
// indices: [rows, k], the selected columns by falling score; of equal scores the first is taken.
// Requires 1 <= k <= columns.
void topk_mean(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t k,
               float* means, std::int64_t* indices);

}  // namespace robustad
