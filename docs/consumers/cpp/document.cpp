#include "document.h"

#include <cmath>

#include "errors.h"
#include "json.h"

namespace {

constexpr int kVersion = 3;  // the first whose graph gives verdicts, and the newest
constexpr double kMostPixels = 1 << 26;
constexpr double kLargestInteger = 9007199254740992.0;  // 2 ** 53

// Fields of the document, with messages that say where.
class Fields {
  public:
    Fields(const Json& json, std::string place, const std::string& name)
        : json_(json), place_(std::move(place)), name_(name) {
        if (!json.is(Json::Kind::object)) damaged("is no object");
    }

    Fields object(const char* field) const {
        return Fields(need(field), path(field), name_);
    }

    std::int64_t count(const char* field) const {
        const Json& found = need(field);
        if (!is_count(found)) at(field).damaged("is no integer >= 1");
        return static_cast<std::int64_t>(found.number);
    }

    std::optional<std::int64_t> count_or_null(const char* field) const {
        if (need(field).is(Json::Kind::null)) return std::nullopt;
        return count(field);
    }

    bool boolean(const char* field) const {
        const Json& found = need(field);
        if (!found.is(Json::Kind::boolean)) at(field).damaged("is neither true nor false");
        return found.boolean;
    }

    double number(const char* field) const {
        const Json& found = need(field);
        if (!found.is(Json::Kind::number)) at(field).damaged("is no number");
        return found.number;
    }

    // By default what the schema says of a document without the field.
    std::vector<std::string> strings(const char* field, std::vector<std::string> otherwise) const {
        if (json_.member(field) == nullptr) return otherwise;
        std::vector<std::string> out;
        const Json& found = need(field);
        if (!found.is(Json::Kind::array)) at(field).damaged("is no list");
        for (const Json& one : found.array) {
            if (!one.is(Json::Kind::string)) at(field).damaged("is no list of texts");
            out.push_back(one.string);
        }
        return out;
    }

    std::string string(const char* field) const {
        const Json& found = need(field);
        if (!found.is(Json::Kind::string)) at(field).damaged("is no text");
        return found.string;
    }

    static bool is_count(const Json& json) {
        return json.is(Json::Kind::number) && json.number >= 1 && json.number < kLargestInteger &&
               json.number == std::floor(json.number);
    }

    [[noreturn]] void damaged(const std::string& how) const {
        throw InputError(name_ + ": its robustad metadata is damaged: " +
                         (place_.empty() ? "it" : place_) + " " + how);
    }

  private:
    Fields at(const char* field) const {
        Fields out = *this;
        out.place_ = path(field);
        return out;
    }

    std::string path(const char* field) const {
        return place_.empty() ? field : place_ + "." + field;
    }

    const Json& need(const char* field) const {
        const Json* found = json_.member(field);
        if (found == nullptr)
            throw InputError(name_ + ": its robustad metadata lacks " + path(field));
        return *found;
    }

    const Json& json_;
    std::string place_;
    const std::string& name_;
};

Json parsed(const std::string& text, const std::string& name) {
    try {
        return parse_json(text);
    } catch (const std::exception& error) {
        throw InputError(name + ": its robustad metadata is no JSON: " + error.what());
    }
}

// Before anything else: other versions may lack or mean anything.
void check_version(const Json& json, const std::string& name) {
    const Json* found = json.member("schema_version");
    if (found == nullptr || !Fields::is_count(*found))
        throw InputError(name + ": its robustad metadata has no schema_version");
    const auto version = static_cast<std::int64_t>(found->number);
    const std::string said = "metadata version " + std::to_string(version);
    if (version > kVersion)
        throw InputError(name + ": written by a newer robustad (" + said +
                         ", this one reads up to " + std::to_string(kVersion) +
                         "); take the program of that robustad");
    if (version < kVersion)
        throw InputError(name + ": written by an older robustad (" + said +
                         "), whose files give no verdicts; export it again");
}

// (i * i + 2 * j * j + 3 * i * j + 50 * c) mod 256 at row i, column j, channel c.
Image golden_image(std::int64_t height, std::int64_t width) {
    Image out{height, width, {}};
    out.pixels.reserve(static_cast<std::size_t>(3 * height * width));
    for (std::int64_t i = 0; i < height; ++i)
        for (std::int64_t j = 0; j < width; ++j)
            for (std::int64_t c = 0; c < 3; ++c)
                out.pixels.push_back(
                    static_cast<std::uint8_t>((i * i + 2 * j * j + 3 * i * j + 50 * c) % 256));
    return out;
}

std::optional<Golden> read_golden(const Fields& found, const std::string& name) {
    if (found.string("recipe") != "quadratic-256") return std::nullopt;
    const std::int64_t height = found.count("height"), width = found.count("width");
    check_size(static_cast<double>(height), static_cast<double>(width), name);
    const Fields outputs = found.object("outputs");
    return Golden{golden_image(height, width),
                  outputs.number("score"),
                  outputs.number("patch_scores_mean"),
                  outputs.number("patch_scores_max"),
                  outputs.number("anomaly_map_mean"),
                  outputs.number("anomaly_map_max")};
}

}  // namespace

Document read_document(const std::string& text, const std::string& name) {
    const Json json = parsed(text, name);
    check_version(json, name);
    const Fields fields(json, "", name);
    const auto operators = fields.strings("custom_ops", {});
    if (!operators.empty())
        throw InputError(name + ": uses operators of robustad's own (" + operators.front() +
                         "), whose library this program does not load; export it without "
                         "custom_ops");
    const Fields input = fields.object("input"), geometry = fields.object("geometry");
    if (input.string("dtype") != "uint8" || input.string("layout") != "NHWC")
        throw InputError(name + ": takes images that are prepared already, which this program does "
                                "not do; export it with input=\"uint8_nhwc\"");
    Document out{};
    const auto height = input.count_or_null("height"), width = input.count_or_null("width");
    if (height && width) out.only = {*height, *width};
    out.size = geometry.count("size");
    out.multiple = geometry.count("multiple");
    out.square = geometry.boolean("square");
    if (out.size < out.multiple) geometry.damaged("has a size below its multiple");
    out.verdicts = fields.strings("verdicts", {"accept", "reject", "defer", "uncalibrated"});
    out.golden = read_golden(fields.object("golden"), name);
    return out;
}

void Document::check(const Image& image, const std::string& image_name) const {
    const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
    const double scale = static_cast<double>(size) / std::fmin(height, width);
    if (!square && scale * scale * height * width > kMostPixels)
        throw InputError(image_name + ": an image of " + std::to_string(image.height) + " x " +
                         std::to_string(image.width) + " pixels would be resized to more than " +
                         std::to_string(static_cast<long>(kMostPixels)) +
                         " pixels; cut it into pieces");
    if (!only) return;
    const auto prepared = [&](double edge) {
        const auto scaled = static_cast<std::int64_t>(std::nearbyint(edge * scale));
        const std::int64_t resized = square || scaled < size ? size : scaled;
        return resized - resized % multiple;
    };
    if (prepared(height) == only->first && prepared(width) == only->second) return;
    throw InputError(image_name + ": prepared to " + std::to_string(prepared(height)) + " x " +
                     std::to_string(prepared(width)) + " pixels, but the file takes " +
                     std::to_string(only->first) + " x " + std::to_string(only->second) + " only");
}
