// Exact cosine nearest neighbours in two passes. No torch in here.
//
// The coarse pass multiplies copies of the vectors in one or two bytes a number and keeps the
// maximum of every group of bank rows, never a score. The error of a coarse score is bounded by the
// length of what was taken from its two vectors, so only groups within that bound of the best can
// hold a neighbour. The refinement scores their rows in float32, after 8-bit coarse scores those
// alone that nearer scores leave open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace robustad {

struct CosineNnPath;  // one instruction set; see cosine_nn_path.h
class Pool;           // see pool.h

// Paths this machine can run, the fastest first. The last, "portable", is always there.
std::vector<const CosineNnPath*> cosine_nn_paths();
// The named path, or the fastest for an empty name. Throws std::invalid_argument.
const CosineNnPath& cosine_nn_path(const std::string& name);

std::size_t cosine_nn_packed_bytes(const CosineNnPath& path, std::int64_t rows, std::int64_t dim);

// unit: [rows, dim], the rows at length 1, zeros for those of length 0 or not finite. Returns whether
// all were finite.
bool cosine_nn_normalise(const CosineNnPath& path, const float* vectors, std::int64_t rows,
                         std::int64_t dim, float* unit, int threads);

// unit:   [rows, dim], vectors of length 1 or 0, finite, contiguous.
// packed: [cosine_nn_packed_bytes(path, rows, dim)]
void cosine_nn_pack(const CosineNnPath& path, const float* unit, std::int64_t rows,
                    std::int64_t dim, unsigned char* packed, int threads);

// Whether `packed`, of at least the size it needs, was made by the path's layout for a bank of this
// shape.
bool cosine_nn_packed_for(const CosineNnPath& path, const unsigned char* packed, std::size_t bytes,
                          std::int64_t rows, std::int64_t dim);

// queries:   [count, dim], of any length, contiguous.
// unit:      [rows, dim], the vectors `packed` was made of.
// distances: [count, k], 1 - cos, ascending, in [0, 2]. NaN for a query that is not finite.
// indices:   [count, k], of equal distances the lower row first.
// Requires 1 <= k <= rows, and a packed bank made for this path and shape.
void cosine_nn_search(const CosineNnPath& path, const float* queries, std::int64_t count,
                      std::int64_t dim, const float* unit, std::int64_t rows,
                      const unsigned char* packed, std::int64_t k, float* distances,
                      std::int64_t* indices, int threads);
// The same with the threads of a host that has its own.
void cosine_nn_search(const CosineNnPath& path, const float* queries, std::int64_t count,
                      std::int64_t dim, const float* unit, std::int64_t rows,
                      const unsigned char* packed, std::int64_t k, float* distances,
                      std::int64_t* indices, const Pool& pool);

}  // namespace robustad
