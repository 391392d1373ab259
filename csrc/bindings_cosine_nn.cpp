// Addresses instead of arrays: the tensors are torch's, and this module knows no torch. The Python
// side has checked shapes, dtypes, layouts and devices.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "cosine_nn.h"
#include "cosine_nn_path.h"

namespace py = pybind11;

namespace {

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (const robustad::CosineNnPath* path : robustad::cosine_nn_paths())
        names.emplace_back(path->name);
    return names;
}

bool normalise(std::uintptr_t vectors, std::int64_t rows, std::int64_t dim, std::uintptr_t unit,
               int threads, const std::string& path) {
    const robustad::CosineNnPath& chosen = robustad::cosine_nn_path(path);
    py::gil_scoped_release release;
    return robustad::cosine_nn_normalise(chosen, reinterpret_cast<const float*>(vectors), rows,
                                         dim, reinterpret_cast<float*>(unit), threads);
}

void pack(std::uintptr_t unit, std::int64_t rows, std::int64_t dim, std::uintptr_t packed,
          int threads, const std::string& path) {
    const robustad::CosineNnPath& chosen = robustad::cosine_nn_path(path);
    py::gil_scoped_release release;
    robustad::cosine_nn_pack(chosen, reinterpret_cast<const float*>(unit), rows, dim,
                             reinterpret_cast<unsigned char*>(packed), threads);
}

std::size_t packed_bytes(std::int64_t rows, std::int64_t dim, const std::string& path) {
    return robustad::cosine_nn_packed_bytes(robustad::cosine_nn_path(path), rows, dim);
}

bool packed_for(std::uintptr_t packed, std::size_t bytes, std::int64_t rows, std::int64_t dim,
                const std::string& path) {
    return robustad::cosine_nn_packed_for(robustad::cosine_nn_path(path),
                                          reinterpret_cast<const unsigned char*>(packed), bytes,
                                          rows, dim);
}

void search(std::uintptr_t queries, std::int64_t count, std::int64_t dim, std::uintptr_t unit,
            std::int64_t rows, std::uintptr_t packed, std::size_t bytes, std::int64_t k,
            std::uintptr_t distances, std::uintptr_t indices, int threads,
            const std::string& path) {
    const robustad::CosineNnPath& chosen = robustad::cosine_nn_path(path);
    const auto* bank = reinterpret_cast<const unsigned char*>(packed);
    if (!robustad::cosine_nn_packed_for(chosen, bank, bytes, rows, dim))
        throw std::invalid_argument("packed: expected a bank packed for the path '" +
                                    std::string(chosen.name) + "' and this shape");
    if (k < 1 || k > rows)
        throw std::invalid_argument("k: expected 1.." + std::to_string(rows) + ", got " +
                                    std::to_string(k));
    py::gil_scoped_release release;
    robustad::cosine_nn_search(chosen, reinterpret_cast<const float*>(queries), count, dim,
                               reinterpret_cast<const float*>(unit), rows, bank, k,
                               reinterpret_cast<float*>(distances),
                               reinterpret_cast<std::int64_t*>(indices), threads);
}

}  // namespace

void bind_cosine_nn(py::module_& m) {
    m.def("cosine_nn_paths", &paths, "Instruction sets this machine has, the fastest first.");
    m.def("cosine_nn_packed_bytes", &packed_bytes, py::arg("rows"), py::arg("dim"),
          py::arg("path") = "", "Size of a packed bank.");
    m.def("cosine_nn_normalise", &normalise, py::arg("vectors"), py::arg("rows"), py::arg("dim"),
          py::arg("unit"), py::arg("threads"), py::arg("path") = "",
          "Writes rows at length 1; returns whether all were finite.");
    m.def("cosine_nn_pack", &pack, py::arg("unit"), py::arg("rows"), py::arg("dim"),
          py::arg("packed"), py::arg("threads"), py::arg("path") = "",
          "Packs unit vectors for the coarse pass.");
    m.def("cosine_nn_packed_for", &packed_for, py::arg("packed"), py::arg("bytes"),
          py::arg("rows"), py::arg("dim"), py::arg("path") = "",
          "Whether a packed bank fits a path and a shape.");
    m.def("cosine_nn_search", &search, py::arg("queries"), py::arg("count"), py::arg("dim"),
          py::arg("unit"), py::arg("rows"), py::arg("packed"), py::arg("bytes"), py::arg("k"),
          py::arg("distances"), py::arg("indices"), py::arg("threads"), py::arg("path") = "",
          "Writes 1 - cos and rows of the k nearest vectors of each query.");
}
