"""Nearest neighbours by cosine: an exact index, and ScaNN behind the same interface."""

import dataclasses
import pathlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
