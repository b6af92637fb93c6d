"""Large bodies in and out."""

import numpy as np

import clipper


@clipper.function(min_replicas=1, max_replicas=1)
def same_array(array: np.ndarray) -> np.ndarray:
    return array


@clipper.function(min_replicas=1, max_replicas=1)
def same_bytes(data: bytes) -> bytes:
    return data
