// The operator robustad.CosineNearest; docs/deploy.md describes it.
#pragma once

#include "abi.h"

namespace robustad::ort {

const CustomOp* cosine_nearest();

}  // namespace robustad::ort
