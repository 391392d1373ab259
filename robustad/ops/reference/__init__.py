"""Torch twins of the operators: any device, differentiable; what the kernels are compared to."""
