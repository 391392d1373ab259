// What an exported file says of itself: the parts of docs/artefact.schema.json that this program
// relies on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "image.h"

// One image that any language can compute, and what the detector made of it.
struct Golden {
    Image image;
    double score, patch_scores_mean, patch_scores_max, anomaly_map_mean, anomaly_map_max;
};

struct Document {
    std::int64_t size, multiple;  // images are resized so that the smaller edge has this size,
    bool square;                  // both edges if square, and cropped to whole multiples
    std::optional<std::pair<std::int64_t, std::int64_t>> only;  // height and width after that
    std::vector<std::string> verdicts;  // what the numbers of the output `verdict` mean
    std::optional<Golden> golden;

    // Throws InputError if the file cannot prepare an image of this size.
    void check(const Image& image, const std::string& image_name) const;
};

// From the text under the key `robustad` of a file's metadata. Throws InputError, which names it.
Document read_document(const std::string& text, const std::string& name);
