// How a camera was held, as EXIF tells it.
#include <algorithm>

#include "image.h"

namespace {

// By EXIF's number: whether rows and columns are interchanged first, then whether columns and rows
// are reversed.
constexpr struct Turn {
    bool swapped, columns, rows;
} kTurns[9] = {{},
               {},
               {false, true, false},
               {false, true, true},
               {false, false, true},
               {true, false, false},
               {true, true, false},
               {true, true, true},
               {true, false, true}};

// 1 if it says nothing or is damaged.
unsigned orientation(const Bytes& exif) {
    const bool little = exif.size() > 1 && exif[0] == 'I';
    const auto number = [&](std::size_t at, std::size_t count) {
        unsigned long out = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t from = at + (little ? count - 1 - i : i);
            out = out << 8 | (from < exif.size() ? exif[from] : 0u);
        }
        return out;
    };
    const std::size_t folder = number(4, 4);
    const std::size_t entries = number(folder, 2);
    for (std::size_t i = 0; i < entries; ++i) {
        const std::size_t at = folder + 2 + 12 * i;
        if (at + 10 > exif.size()) return 1;
        if (number(at, 2) != 0x0112 || number(at + 2, 2) != 3) continue;  // a short number
        const unsigned long value = number(at + 8, 2);
        return value >= 1 && value <= 8 ? static_cast<unsigned>(value) : 1u;
    }
    return 1;
}

}  // namespace

Image turned(Image image, const Bytes& exif) {
    const unsigned number = orientation(exif);
    if (number == 1) return image;
    const Turn turn = kTurns[number];
    Image out;
    out.height = turn.swapped ? image.width : image.height;
    out.width = turn.swapped ? image.height : image.width;
    out.pixels.resize(image.pixels.size());
    for (std::int64_t i = 0; i < out.height; ++i) {
        for (std::int64_t j = 0; j < out.width; ++j) {
            const std::int64_t row = turn.rows ? out.height - 1 - i : i;
            const std::int64_t column = turn.columns ? out.width - 1 - j : j;
            const std::int64_t from =
                turn.swapped ? column * image.width + row : row * image.width + column;
            std::copy_n(image.pixels.begin() + 3 * from, 3,
                        out.pixels.begin() + 3 * (i * out.width + j));
        }
    }
    return out;
}
