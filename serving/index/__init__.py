"""Nearest neighbours by cosine: an exact index, ScaNN, and whatever else proposes them, behind one interface."""

from serving.index.calibration import build_for, calibrate
from serving.index.choice import Choice
from serving.index.exact import ExactIndex
from serving.index.folder import PARAMETERS_FILE, parameters_json, read_parameters
from serving.index.hamming import HammingIndex, pack_codes
from serving.index.held_out import HeldOut
from serving.index.index import Embeddings, Index, Rows
from serving.index.kinds import build_index, load_index
from serving.index.parameter_search import SearchOptions, search_parameters
from serving.index.parameters import BRUTE_FORCE_BELOW, EXACT_KINDS, KINDS, SCORINGS, IndexParameters, choose_parameters
from serving.index.point import Point, choose, frontier
from serving.index.scann_index import ScannIndex
from serving.index.sweep import sweep

__all__ = [
    "BRUTE_FORCE_BELOW",
    "EXACT_KINDS",
    "KINDS",
    "PARAMETERS_FILE",
    "SCORINGS",
    "Choice",
    "Embeddings",
    "ExactIndex",
    "HammingIndex",
    "HeldOut",
    "Index",
    "IndexParameters",
    "Point",
    "Rows",
    "ScannIndex",
    "SearchOptions",
    "build_for",
    "build_index",
    "calibrate",
    "choose",
    "choose_parameters",
    "frontier",
    "load_index",
    "pack_codes",
    "parameters_json",
    "read_parameters",
    "search_parameters",
    "sweep",
]
