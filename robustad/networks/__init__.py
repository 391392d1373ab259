"""Trainable networks: from an image to one logit a patch."""

from robustad.networks.base import Attention, PatchNetwork

__all__ = ["Attention", "PatchNetwork"]
