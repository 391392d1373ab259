// onnxruntime's C interface: its own header, or what of it is needed here.
#pragma once

#ifdef WITH_ORT_HEADER
#include <onnxruntime_c_api.h>
#else
#include "onnxruntime_subset.h"
#endif
