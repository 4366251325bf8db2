"""An answer of the gateway, for the echo to echo."""

import pathlib
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from lookalike.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc


def save_answer(address: str, vector: npt.NDArray[np.float32], k: int, file: pathlib.Path) -> Any:
    """Writes what the gateway answers to a vector, and returns it."""
    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=vector.tolist()), k=k)
    with grpc.insecure_channel(address) as channel:
        answer = retrieval_pb2_grpc.RetrievalServiceStub(channel).Search(request, timeout=30)
    file.write_bytes(answer.SerializeToString())
    return answer
