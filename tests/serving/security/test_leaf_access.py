"""Leaves that ask a root who it is: real certificates, real tokens."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from lookalike.leaf.v1 import leaf_pb2
from serving.client import QueryFailed
from serving.gateway.options import Security, Updates
from serving.security.tls import channel_credentials
from tests.serving.certificates import Authority
from tests.serving.collection import Collection
from tests.serving.fanned_out import FannedOut
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png

READ, ADMIN = "root-" + "r" * 32, "root-" + "a" * 32


@pytest.fixture
def secured(tmp_path: pathlib.Path) -> tuple[Authority, dict[str, Any], dict[str, Any]]:
    """The authority, and what leaves and a root are given."""
    authority = Authority(tmp_path)
    (tmp_path / "read").write_text(f"root {READ}\n")
    (tmp_path / "admin").write_text(f"root {ADMIN}\n")
    cert, key = authority.issue("leaf")
    leaf = {
        "tls_cert": cert,
        "tls_key": key,
        "client_ca": authority.file,
        "read_tokens": str(tmp_path / "read"),
        "admin_tokens": str(tmp_path / "admin"),
    }
    own_cert, own_key = authority.issue("root")
    root = {
        "leaf_ca": authority.file,
        "leaf_cert": own_cert,
        "leaf_key": own_key,
        "leaf_token": str(tmp_path / "admin"),
    }
    return authority, leaf, root


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def start(loop: LoopThread, tmp_path: pathlib.Path, leaf: dict[str, Any], root: dict[str, Any]) -> FannedOut:
    collection = Collection(tmp_path / "collection")
    collection.publish(shards=2)
    own = {"security": Security(**root), "updates": Updates(allow_updates=True)}
    return FannedOut(loop, collection, of=2, leaf={"security": Security(**leaf)}, root=own)


def test_a_root_says_who_it_is(loop: LoopThread, tmp_path: pathlib.Path, secured: Any) -> None:
    authority, leaf, root = secured
    with start(loop, tmp_path, leaf, root) as fanned:
        fanned.wait_until_whole()
        assert len(fanned.client.search(image=png(3), k=1000).neighbors) == len(fanned.collection.images)
        assert not fanned.client.upsert("new.png", png(2000)).replaced
        # Who only has a certificate learns nothing.
        address, method = f"127.0.0.1:{fanned.ports[0, 0]}", "/lookalike.leaf.v1.LeafService/GetStatus"
        cert, key = authority.issue("nobody")
        with grpc.secure_channel(address, channel_credentials(authority.file, cert, key)) as channel:
            ask = channel.unary_unary(method, request_serializer=leaf_pb2.GetStatusRequest.SerializeToString)
            with pytest.raises(grpc.RpcError) as caught:
                ask(leaf_pb2.GetStatusRequest(), timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        # New certificates are taken up by both sides.
        authority.issue("leaf")
        authority.issue("root")
        for number in (0, 1):
            fanned.stop_leaf(number)
            fanned.start_leaf(number)
        fanned.wait_until_whole()


@pytest.mark.parametrize("missing", ["token", "certificate", "TLS"])
def test_a_root_that_does_not_is_refused(
    loop: LoopThread, tmp_path: pathlib.Path, secured: Any, missing: str, caplog: Any
) -> None:
    _, leaf, root = secured
    left_out = {"token": ["leaf_token"], "certificate": ["leaf_cert", "leaf_key"], "TLS": list(root)}[missing]
    with start(loop, tmp_path, leaf, {name: file for name, file in root.items() if name not in left_out}) as fanned:
        until(lambda: caplog.text.count("is left out: leaf") >= 2)
        with pytest.raises(QueryFailed) as caught:
            fanned.client.search(vector=[1.0] * 16)
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "NO_RELEASE")
        assert ("UNAUTHENTICATED: a token is needed" in caplog.text) == (missing == "token")


def test_a_read_token_is_not_good_for_updates(loop: LoopThread, tmp_path: pathlib.Path, secured: Any) -> None:
    _, leaf, root = secured
    with start(loop, tmp_path, leaf, {**root, "leaf_token": leaf["read_tokens"]}) as fanned:
        fanned.wait_until_whole()
        with pytest.raises(QueryFailed, match="needs the role admin"):
            fanned.client.upsert("new.png", png(2000))
        with pytest.raises(QueryFailed, match="needs the role admin"):
            fanned.client.delete("item-3.png")
