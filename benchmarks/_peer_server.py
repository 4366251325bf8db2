"""FAISS behind FastAPI, as one writes it in an afternoon: `python -m benchmarks._peer_server FOLDER --port P`."""

import argparse
import pathlib
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

from benchmarks._peer import Faiss
from benchmarks._queries import VECTORS


class Query(BaseModel):
    """A search."""

    vector: list[float]
    k: int


def make_app(folder: pathlib.Path) -> FastAPI:
    """Returns the application."""
    peer = Faiss(np.load(folder / VECTORS), folder, "")
    app = FastAPI()
    state: dict[str, Any] = {"search": peer.search({"index": "flat"})}

    @app.post("/setting")
    async def setting(request: Request) -> dict[str, str]:
        found = dict(request.query_params)
        state["search"] = peer.search({name: int(v) if v.isdecimal() else v for name, v in found.items()})
        return found

    # A search takes less than a thread's handing over and back.
    @app.post("/search")
    async def search(query: Query) -> dict[str, list[int]]:
        return {"ids": state["search"](np.array(query.vector, np.float32))}

    return app


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=pathlib.Path)
    arguments = parser.parse_args()
    server = uvicorn.Server(uvicorn.Config(make_app(arguments.folder), port=arguments.port, log_level="warning"))
    socket = server.config.bind_socket()
    if arguments.port_file:
        arguments.port_file.write_text(f"{socket.getsockname()[1]}\n")
    server.run(sockets=[socket])


if __name__ == "__main__":
    main()
