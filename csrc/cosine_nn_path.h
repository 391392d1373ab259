// What an instruction set provides for cosine_nn. Its file is compiled with that set's flags, so it
// must define nothing that the linker could share with other files: no std:: templates in there.
#pragma once

#include <cstdint>

namespace robustad {

constexpr std::int64_t kPanel = 16;  // bank rows packed side by side
constexpr std::int64_t kRowPad = 2 * kPanel;
constexpr std::int64_t kDimPad = 32;
enum class CosineNnLayout : std::int32_t {
    // [panels][dim / 2][16 rows][2], round(x * 32767)
    kInt16 = 1,
    // [panels][dim / 32][16 rows][32], bfloat16
    kBfloat16 = 2,
    // See cosine_nn_int8.h.
    kInt8 = 3,
};

// Of one query's scores, in units of a product. A row's product is at most its coarse maximum and
// `coarse` more, and at least that without `coarse` and `slack`; it is at most `panel` more than
// `panel_scores` says.
struct CosineNnBounds {
    float coarse, slack, panel;
};

struct CosineNnPath {
    const char* name;
    CosineNnLayout layout;
    double one;                  // coarse maxima are integers in units of 1 / one
    std::int64_t query_block;    // queries that `coarse` takes at once
    std::int64_t least_panels;   // panels a group has at least
    double (*accumulation)(std::int64_t dim);  // bound of what summing adds to a coarse error
    std::int64_t (*panel_bytes)(std::int64_t padded);
    std::int64_t (*query_bytes)(std::int64_t padded);  // of one query in a block
    // Of a panel's head, a second copy with fewer numbers, 0 if there is none.
    std::int64_t (*head_bytes)(std::int64_t padded);
    // Whether `coarse` is to be given heads in place of panels.
    bool (*by_heads)(std::int64_t padded, const float* frame);

    // A row at length 1 (or 0 if it is zero). Returns false, and zeros, if it is not finite.
    bool (*normalise)(const float* row, std::int64_t dim, float* unit);
    // What a path has to know of a bank before it packs it, `frame`: the mean row (zeros from `dim`
    // on), what `learn` makes of all rows, and from `learnt_floats` on largest values, which
    // `survey` joins with those of some rows. It begins as zeros but for the mean. No floats and
    // null for a path that needs none.
    std::int64_t (*frame_floats)(std::int64_t padded);
    void (*learn)(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                  float* frame);
    void (*survey)(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                   float* frame);
    std::int64_t (*learnt_floats)(std::int64_t padded);
    // `rows` rows (at most one panel; the last is repeated to fill it) to a panel and its head.
    // errors: [2], of the panel and of the head, raised to what `pack_queries` needs to bound errors:
    // of 16-bit integers the length of what rounding took from the row that lost the most.
    void (*pack_panel)(const float* unit, std::int64_t rows, std::int64_t dim, std::int64_t padded,
                       const float* frame, unsigned char* panel, unsigned char* head,
                       double* errors);
    // `count` (at most query_block) queries to a block. bank_errors: [2], as above.
    void (*pack_queries)(const float* unit, std::int64_t count, std::int64_t dim,
                         std::int64_t padded, const float* frame, const double* bank_errors,
                         unsigned char* block, CosineNnBounds* bounds);
    // Around the calls of `coarse` in one thread: AMX has a register state to set up.
    void (*enter)();
    void (*leave)();
    // Maxima of `groups` groups of `group_panels` panels each (the last may have fewer; `panels` in
    // all) for one block of queries. maxima: [count, stride].
    void (*coarse)(const unsigned char* block, std::int64_t count, const unsigned char* panels_at,
                   std::int64_t panels, std::int64_t group_panels, std::int64_t padded,
                   const float* frame, std::int32_t* maxima, std::int64_t stride);
    // Coarse scores of one panel's rows for query `query` of a block of `count`. scores: [kPanel].
    // Null for a path whose groups are scored in float32 at once.
    void (*panel_scores)(const unsigned char* block, std::int64_t count, std::int64_t query,
                         const unsigned char* panel, std::int64_t padded, std::int32_t* scores);
    // Dot products of a query with `rows` consecutive rows, each within 5e-7.
    void (*dots)(const float* query, const float* unit, std::int64_t rows, std::int64_t dim,
                 float* products);
    // The largest of `count` maxima; how many are at least `threshold`, and their places.
    std::int32_t (*largest)(const std::int32_t* maxima, std::int64_t count);
    std::int64_t (*at_least)(const std::int32_t* maxima, std::int64_t count,
                             std::int32_t threshold, std::int32_t* places);
};

// Null where the compiler could not be given the path's flags.
extern const CosineNnPath* const kCosineNnPortable;
extern const CosineNnPath* const kCosineNnAvx2Int16;
extern const CosineNnPath* const kCosineNnAvx2;
extern const CosineNnPath* const kCosineNnAvx512;
extern const CosineNnPath* const kCosineNnAvx512Vnni;
extern const CosineNnPath* const kCosineNnAmx;

}  // namespace robustad
