#include <pybind11/pybind11.h>
namespace robustad { int device_count(); }
PYBIND11_MODULE(_C_cuda, m) { m.def("device_count", &robustad::device_count); }
