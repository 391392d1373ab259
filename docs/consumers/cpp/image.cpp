#include "image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "errors.h"

namespace {

constexpr double kMostPixels = 1 << 27;

bool starts_with(const Bytes& file, const std::string& signature) {
    return file.size() >= signature.size() &&
           std::equal(signature.begin(), signature.end(), file.begin(),
                      [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
}

// The next number of a PNM header; lines that begin with # are comments.
double header_number(const Bytes& file, std::size_t& at, const std::string& name) {
    const auto here = [&] { return at < file.size() ? file[at] : 0; };
    while (here() == ' ' || here() == '\t' || here() == '\n' || here() == '\r' || here() == '#') {
        if (here() == '#')
            while (at < file.size() && file[at] != '\n') ++at;
        else
            ++at;
    }
    if (here() < '0' || here() > '9')
        throw InputError(name + ": cannot be read as an image: no header");
    double out = 0.0;  // digits without end become infinity, not an overflow
    for (; here() >= '0' && here() <= '9'; ++at) out = 10.0 * out + (here() - '0');
    return out;
}

Bytes read_bytes(const std::string& path) {
    check_file(path);
    std::ifstream file(path, std::ios::binary);
    Bytes out{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file) throw InputError(path + ": cannot be read");
    return out;
}

}  // namespace

void check_file(const std::string& path) {
    struct stat found {};
    if (stat(path.c_str(), &found) != 0) throw InputError(path + ": no such file");
    if (S_ISDIR(found.st_mode)) throw InputError(path + ": expected a file, got a folder");
}

void check_size(double height, double width, const std::string& name) {
    if (height < 1 || width < 1)
        throw InputError(name + ": cannot be read as an image: it has no pixels");
    if (height * width > kMostPixels) throw InputError(name + ": refused, too many pixels");
}

std::uint8_t rounded(unsigned value) {
    const float share = static_cast<float>(value) / 65535.0f;
    return static_cast<std::uint8_t>(std::nearbyint(share * 255.0f));
}

Image decode_pnm(const Bytes& file, const std::string& name) {
    const bool colours = file[1] == '6';
    std::size_t at = 2;
    const double width = header_number(file, at, name);
    const double height = header_number(file, at, name);
    const double most = header_number(file, at, name);
    ++at;  // one blank after the largest value
    const bool deep = !colours && most == 65535;
    if (most != 255 && !deep)
        throw InputError(name +
                         ": expected values up to 255, or 65535 of a grey image, got up to " +
                         std::to_string(static_cast<long long>(std::fmin(most, 1e9))));
    check_size(height, width, name);
    Image out;
    out.height = static_cast<std::int64_t>(height);
    out.width = static_cast<std::int64_t>(width);
    const auto count = static_cast<std::size_t>(out.height * out.width);
    const std::size_t size = count * (colours ? 3 : deep ? 2 : 1);
    if (at > file.size() || size > file.size() - at)
        throw InputError(name + ": cannot be read as an image: truncated, " + std::to_string(size) +
                         " bytes of pixels expected");
    const std::uint8_t* from = file.data() + at;
    if (colours) {
        out.pixels.assign(from, from + size);
        return out;
    }
    out.pixels.reserve(3 * count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t grey = deep ? rounded(from[2 * i] * 256u + from[2 * i + 1]) : from[i];
        out.pixels.insert(out.pixels.end(), 3, grey);
    }
    return out;
}

Image read_image(const std::string& path) {
    const Bytes file = read_bytes(path);
    if (starts_with(file, "P5") || starts_with(file, "P6")) return decode_pnm(file, path);
    if (starts_with(file, "\x89PNG\r\n\x1a\n")) return decode_png(file, path);
    throw InputError(path + ": not an image of a known kind; PNG, PPM and PGM are taken");
}
