"""Nearest neighbours by cosine: an exact index, ScaNN, and whatever else proposes them, behind one interface."""

from serving.index.exact import ExactIndex
from serving.index.folder import PARAMETERS_FILE, read_parameters
from serving.index.hamming import HammingIndex, pack_codes
from serving.index.index import Embeddings, Index, Rows
from serving.index.kinds import build_index, load_index
from serving.index.parameters import BRUTE_FORCE_BELOW, EXACT_KINDS, KINDS, SCORINGS, IndexParameters, choose_parameters
from serving.index.scann_index import ScannIndex

__all__ = [
    "BRUTE_FORCE_BELOW",
    "EXACT_KINDS",
    "KINDS",
    "PARAMETERS_FILE",
    "SCORINGS",
    "Embeddings",
    "ExactIndex",
    "HammingIndex",
    "Index",
    "IndexParameters",
    "Rows",
    "ScannIndex",
    "build_index",
    "choose_parameters",
    "load_index",
    "pack_codes",
    "read_parameters",
]
