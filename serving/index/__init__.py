"""Nearest neighbours by cosine: an exact index, ScaNN, and whatever else proposes them, behind one interface."""

from serving.index.exact import ExactIndex
from serving.index.folder import PARAMETERS_FILE, read_parameters
from serving.index.index import Embeddings, Index, Rows
from serving.index.kinds import build_index, load_index
from serving.index.parameters import BRUTE_FORCE_BELOW, KINDS, SCORINGS, IndexParameters, choose_parameters
from serving.index.scann_index import ScannIndex

__all__ = [
    "BRUTE_FORCE_BELOW",
    "KINDS",
    "PARAMETERS_FILE",
    "SCORINGS",
    "Embeddings",
    "ExactIndex",
    "Index",
    "IndexParameters",
    "Rows",
    "ScannIndex",
    "build_index",
    "choose_parameters",
    "load_index",
    "read_parameters",
]
