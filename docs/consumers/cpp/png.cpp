// PNG files through libpng; WITH_PNG says that it is there.
#include "errors.h"
#include "image.h"

#ifdef WITH_PNG
#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

namespace {

// Everything lives here and not on the stack of `decode`, which libpng's errors leave by a jump.
struct Decoding {
    explicit Decoding(const Bytes& bytes) : file(bytes) {
        png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &Decoding::fail,
                                     [](png_structp, png_const_charp) {});
        if (png != nullptr) info = png_create_info_struct(png);
    }
    ~Decoding() { png_destroy_read_struct(&png, &info, nullptr); }
    Decoding(const Decoding&) = delete;
    Decoding& operator=(const Decoding&) = delete;

    [[noreturn]] static void fail(png_structp png, png_const_charp reason) {
        auto* self = static_cast<Decoding*>(png_get_error_ptr(png));
        std::snprintf(self->reason, sizeof self->reason, "%s", reason);
        png_longjmp(png, 1);
    }

    static void read(png_structp png, png_bytep to, std::size_t count) {
        auto* self = static_cast<Decoding*>(png_get_io_ptr(png));
        if (count > self->file.size() - self->at) png_error(png, "truncated");
        std::memcpy(to, self->file.data() + self->at, count);
        self->at += count;
    }

    const Bytes& file;
    std::size_t at = 0;
    png_structp png = nullptr;
    png_infop info = nullptr;
    char reason[96] = "";
    bool deep = false;
    png_uint_32 height = 0, width = 0;
    Bytes samples, exif;  // RGB of 8 bits, or of 16 if `deep`
    std::vector<png_bytep> rows;
};

// False if libpng found something wrong. No local variable here may have a destructor.
bool header(Decoding& one) {
    if (setjmp(png_jmpbuf(one.png)) != 0) return false;
    png_set_read_fn(one.png, &one, &Decoding::read);
    png_read_info(one.png, one.info);
    one.width = png_get_image_width(one.png, one.info);
    one.height = png_get_image_height(one.png, one.info);
    return true;
}

bool pixels(Decoding& one) {
    if (setjmp(png_jmpbuf(one.png)) != 0) return false;
    const int colour = png_get_color_type(one.png, one.info);
    const int depth = png_get_bit_depth(one.png, one.info);
    one.deep = colour == PNG_COLOR_TYPE_GRAY && depth == 16;
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(one.png);
    if (colour == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(one.png);
    if (depth == 16 && !one.deep) png_set_strip_16(one.png);
    png_set_gray_to_rgb(one.png);
    png_set_strip_alpha(one.png);
    png_set_interlace_handling(one.png);
    png_read_update_info(one.png, one.info);
    const std::size_t stride = png_get_rowbytes(one.png, one.info);
    if (stride != std::size_t{one.width} * (one.deep ? 6 : 3)) png_error(one.png, "odd rows");
    one.samples.resize(stride * one.height);
    one.rows.resize(one.height);
    for (png_uint_32 i = 0; i < one.height; ++i) one.rows[i] = one.samples.data() + i * stride;
    png_read_image(one.png, one.rows.data());
    png_read_end(one.png, one.info);
#ifdef PNG_eXIf_SUPPORTED
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(one.png, one.info, &size, &exif) != 0) one.exif.assign(exif, exif + size);
#endif
    return true;
}

}  // namespace

Image decode_png(const Bytes& file, const std::string& name) {
    Decoding one(file);
    const auto damaged = [&] {
        return InputError(name + ": cannot be read as an image: " + one.reason);
    };
    if (one.info == nullptr || !header(one)) throw damaged();
    check_size(one.height, one.width, name);
    if (!pixels(one)) throw damaged();
    Image out{one.height, one.width, {}};
    if (one.deep) {
        out.pixels.resize(one.samples.size() / 2);
        for (std::size_t i = 0; i < out.pixels.size(); ++i)
            out.pixels[i] = rounded(one.samples[2 * i] * 256u + one.samples[2 * i + 1]);
    } else {
        out.pixels = std::move(one.samples);
    }
    return turned(std::move(out), one.exif);
}

#else

Image decode_png(const Bytes&, const std::string& name) {
    throw InputError(name + ": PNG needs libpng, which this program was built without; PPM and PGM "
                            "are taken");
}

#endif
