"""How many threads tests take, and kernels without a GPU to compile them for."""

import os

import pytest
import torch

# Triton kernels are interpreted where there is no GPU. Read when a kernel module is imported, so
# before any test is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Most tests are many tiny operations: handing each out to threads costs more than it does, and on
# a busy machine many times more. The environment may say otherwise.
THREADS = torch.get_num_threads()
if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ):
    torch.set_num_threads(1)


@pytest.fixture
def all_threads():
    """As many threads as torch takes by itself, for code that shares its work between them."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
