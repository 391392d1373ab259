// One function a topic: each adds its own part to `robustad._C`.
#pragma once

#include <pybind11/pybind11.h>

void bind_attention_degree(pybind11::module_& m);
void bind_cosine_nn(pybind11::module_& m);
