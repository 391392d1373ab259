// JSON as far as metadata need it: reading a document into values, writing a string.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct Json {
    enum class Kind { null, boolean, number, string, array, object };

    Kind kind = Kind::null;
    bool boolean = false;
    double number = 0.0;
    std::string string;
    std::vector<Json> array;
    std::vector<std::pair<std::string, Json>> object;

    bool is(Kind wanted) const { return kind == wanted; }
    // Of an object; null if there is none of this name. The last one counts, as in most readers.
    const Json* member(std::string_view name) const;
};

// Throws std::runtime_error: what is wrong and at which byte.
Json parse_json(std::string_view text);

// In quotation marks; bytes that are no ASCII stay as they are.
std::string quoted(std::string_view text);
