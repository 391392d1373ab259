"""Triton kernels are interpreted where there is no GPU to compile them for."""

import os

import torch

# Read when a kernel module is imported, so before any test is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
