// Image files as pixels, with the values that robustad.images gives them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

using Bytes = std::vector<std::uint8_t>;

struct Image {
    std::int64_t height = 0, width = 0;
    Bytes pixels;  // RGB, row by row
};

// Reads a PPM, PGM or, where built with libpng, PNG file. Throws InputError, which names it.
Image read_image(const std::string& path);

// Throws InputError unless there is a file, and no folder.
void check_file(const std::string& path);

Image decode_pnm(const Bytes& file, const std::string& name);
Image decode_png(const Bytes& file, const std::string& name);

// Upright, by EXIF's number for how the camera was held; `exif` begins with II or MM.
Image turned(Image image, const Bytes& exif);

// A grey of 16 bits as 8, as robustad rounds it: to the nearest, halves to the even one.
std::uint8_t rounded(unsigned value);

// Throws unless there are pixels, and no more than memory is for.
void check_size(double height, double width, const std::string& name);
