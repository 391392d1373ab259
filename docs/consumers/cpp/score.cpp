// Scores images with an exported detector: a line of JSON an image, as robustad.runtime gives them.
// Resizing, calibration, p-values and verdicts are in the file; this program decodes images, hands
// their pixels over, and reads what the numbers mean from the file's metadata. With - in place of
// images their names are read from standard input, a line each.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "document.h"
#include "errors.h"
#include "image.h"
#include "json.h"
#include "session.h"

namespace {

constexpr const char* kUsage =
    "usage: score [--threshold P] [--threads N] [--library LIBONNXRUNTIME] [--check] MODEL.onnx "
    "IMAGE...";
constexpr double kGoldenTolerance = 1e-3;  // as robustad.runtime's check_golden

struct Arguments {
    std::string library, model;
    std::vector<std::string> images;
    std::optional<double> threshold;  // in place of the file's own
    int threads = 0;
    bool check = false;  // run the golden image first
};

double number(const std::string& option, const std::string& text, const char* wanted,
              const std::function<bool(double)>& fits) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !fits(value))
        throw InputError(option + ": expected " + wanted + ", got '" + text + "'");
    return value;
}

Arguments read_arguments(const std::vector<std::string>& given) {
    Arguments out;
    std::vector<std::string> files;
    bool options = true;
    for (std::size_t i = 0; i < given.size(); ++i) {
        const std::string& one = given[i];
        if (!options || one.rfind("--", 0) != 0) {
            files.push_back(one);
            continue;
        }
        if (one == "--") {
            options = false;
            continue;
        }
        if (one == "--check") {
            out.check = true;
            continue;
        }
        if (one != "--library" && one != "--threshold" && one != "--threads")
            throw InputError(one + ": no such option; " + kUsage);
        if (++i == given.size()) throw InputError(one + ": expected a value; " + kUsage);
        if (one == "--library") out.library = given[i];
        if (one == "--threshold")
            out.threshold = number(one, given[i], "a probability in (0, 1)",
                                   [](double p) { return p > 0 && p < 1; });
        if (one == "--threads")
            out.threads = static_cast<int>(
                number(one, given[i], "an integer from 1 to 1024", [](double n) {
                    return n >= 1 && n <= 1024 && n == std::floor(n);
                }));
    }
    if (files.size() < 2) throw InputError(kUsage);
    out.model = files[0];
    out.images.assign(files.begin() + 1, files.end());
    return out;
}

double mean(const std::vector<double>& values) {
    double sum = 0.0;
    for (const double one : values) sum += one;
    return sum / static_cast<double>(values.size());
}

double largest(const std::vector<double>& values) {
    return *std::max_element(values.begin(), values.end());
}

// Engine, machine and file belong together: the file's golden image gives what it gave at export.
void check_golden(const Session& session, const Document& document, const std::string& model) {
    if (!document.golden) throw InputError(model + ": holds no golden image known here");
    const Golden& wanted = *document.golden;
    const auto found = session.run(wanted.image, {"score", "patch_scores", "anomaly_map"});
    const double differences[] = {found[0][0] - wanted.score,
                                  mean(found[1]) - wanted.patch_scores_mean,
                                  largest(found[1]) - wanted.patch_scores_max,
                                  mean(found[2]) - wanted.anomaly_map_mean,
                                  largest(found[2]) - wanted.anomaly_map_max};
    for (const double one : differences)
        if (!(std::fabs(one) <= kGoldenTolerance))  // also refuses NaN
            throw InputError(model + ": this machine is " + std::to_string(std::fabs(one)) +
                             " off the file's golden outputs");
}

// As JSON has it, which cannot write what is not known.
std::string text(double value) {
    if (!std::isfinite(value)) return "null";
    char out[32];
    std::snprintf(out, sizeof out, "%.9g", value);  // every float comes back the same
    return out;
}

std::string scored(const Session& session, const Document& document, const std::string& path,
                   std::optional<double> threshold) {
    const Image image = read_image(path);
    document.check(image, path);
    const auto found = session.run(
        image, {"score", "probability", "entropy", "p_value", "verdict"}, threshold);
    const auto verdict = static_cast<std::size_t>(found[4].at(0));
    if (verdict >= document.verdicts.size()) throw std::runtime_error("an unknown verdict");
    return "{\"name\": " + quoted(path) + ", \"score\": " + text(found[0].at(0)) +
           ", \"probability\": " + text(found[1].at(0)) + ", \"entropy\": " + text(found[2].at(0)) +
           ", \"p_value\": " + text(found[3].at(0)) +
           ", \"verdict\": " + quoted(document.verdicts[verdict]) + "}";
}

// One line that names the file, whatever went wrong with it.
void tell(const std::exception& error, const std::string& name) {
    const bool named = dynamic_cast<const InputError*>(&error) != nullptr;
    std::fprintf(stderr, "%s%s\n", named ? "" : (name + ": ").c_str(), error.what());
}

int score_all(const Arguments& given) {
    std::optional<Session> session;
    Document document;
    try {
        check_file(given.model);
        session.emplace(given.library, given.model, given.threads);
        const auto stored = session->metadata("robustad");
        if (!stored)
            throw InputError(given.model +
                             ": an ONNX file, but not one exported by robustad (no metadata)");
        document = read_document(*stored, given.model);
        if (given.check) check_golden(*session, document, given.model);
    } catch (const std::exception& error) {
        tell(error, given.model);
        return 2;
    }
    int code = 0;
    const auto one = [&](const std::string& path) {
        try {
            std::printf("%s\n", scored(*session, document, path, given.threshold).c_str());
            std::fflush(stdout);
        } catch (const std::exception& error) {
            tell(error, path);  // and go on with the next image
            code = 2;
        }
    };
    if (given.images == std::vector<std::string>{"-"}) {
        for (std::string path; std::getline(std::cin, path);) one(path);
    } else {
        for (const std::string& path : given.images) one(path);
    }
    return code;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return score_all(read_arguments({arguments + 1, arguments + count}));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
