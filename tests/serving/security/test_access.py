"""Who gets in: a real gateway, real certificates, real tokens."""

import logging
import pathlib
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client, Credentials, QueryFailed
from serving.gateway.options import Logs, Security
from serving.security.access import ROLES
from serving.security.tokens import Role
from tests.serving.certificates import Authority
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

ONE = [1.0] * 16
TOKENS = {"read": "read-" + "r" * 32, "admin": "admin-" + "a" * 32, "false": "false-" + "f" * 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Tokens of each role, and one of nobody's, in files."""
    folder = tmp_path_factory.mktemp("access")
    for name, token in TOKENS.items():
        (folder / name).write_text(f"{name}-er {token}\n")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    collection = Collection(tmp_path_factory.mktemp("root") / "root")
    collection.publish()
    return collection


@pytest.fixture(scope="module")
def authority(folder: pathlib.Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def mutual(loop: LoopThread, folder: pathlib.Path, collection: Collection, authority: Authority) -> Iterator[Running]:
    """A gateway that asks for a certificate and a token."""
    cert, key = authority.issue("server")
    security = Security(
        tls_cert=cert,
        tls_key=key,
        client_ca=authority.file,
        read_tokens=str(folder / "read"),
        admin_tokens=str(folder / "admin"),
    )
    credentials = authority.client(token_file=str(folder / "admin"))
    with Running(loop, collection, security=security, credentials=credentials) as running:
        running.client.wait_until_serving(60)
        yield running


@pytest.fixture
def clear(loop: LoopThread, folder: pathlib.Path, collection: Collection) -> Iterator[Running]:
    """A gateway in the clear that asks for a token."""
    security = Security(read_tokens=str(folder / "read"), admin_tokens=str(folder / "admin"))
    credentials = Credentials(token_file=str(folder / "read"))
    logs = Logs(log_requests=1.0)
    with Running(loop, collection, security=security, credentials=credentials, logs=logs) as running:
        running.client.wait_until_serving(60)
        yield running


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except QueryFailed as error:
        return error.code
    return "OK"


def asked(running: Running, credentials: Credentials) -> tuple[str, str, str]:
    """Returns what comes of a query, of an admin's call, and of asking for health."""
    with Client(running.address, timeout=5, credentials=credentials) as client:
        found = outcome(lambda: client.search(vector=ONE))
        listed = outcome(lambda: list(client.list_releases()))
        return found, listed, "SERVING" if client.is_serving() else "unknown"


def certificates(folder: pathlib.Path, authority: Authority) -> dict[str, Credentials]:
    """Returns clients that trust the gateway, with certificates of all kinds."""
    cert, key = Authority(folder, "other-ca").issue("stranger")
    return {
        "none": Credentials(ca=authority.file),
        "of another authority": Credentials(ca=authority.file, cert=cert, key=key),
        "expired": authority.client("late", expired=True),
        "good": authority.client("friend"),
    }


@pytest.mark.parametrize("certificate", ["none", "of another authority", "expired", "good"])
@pytest.mark.parametrize("token", [None, "false", "read", "admin"])
def test_every_certificate_with_every_token(
    mutual: Running, folder: pathlib.Path, authority: Authority, certificate: str, token: str | None
) -> None:
    shown = certificates(folder, authority)[certificate]
    file = None if token is None else str(folder / token)
    credentials = Credentials(ca=shown.ca, cert=shown.cert, key=shown.key, token_file=file)
    expected = {
        None: ("UNAUTHENTICATED", "UNAUTHENTICATED", "SERVING"),
        "false": ("UNAUTHENTICATED", "UNAUTHENTICATED", "SERVING"),
        "read": ("OK", "PERMISSION_DENIED", "SERVING"),
        "admin": ("OK", "OK", "SERVING"),
    }[token]
    if certificate != "good":
        expected = ("UNAVAILABLE", "UNAVAILABLE", "unknown")
    assert asked(mutual, credentials) == expected


def test_a_client_that_does_not_trust_the_gateway_sends_it_nothing(mutual: Running, folder: pathlib.Path) -> None:
    stranger = Authority(folder, "strange-ca").client("strange", token_file=str(folder / "admin"))
    assert asked(mutual, stranger) == ("UNAVAILABLE", "UNAVAILABLE", "unknown")
    in_the_clear = Credentials(token_file=str(folder / "admin"))
    assert asked(mutual, in_the_clear) == ("UNAVAILABLE", "UNAVAILABLE", "unknown")


def test_who_speaks_tls_to_a_gateway_in_the_clear_is_told(
    loop: LoopThread, collection: Collection, authority: Authority
) -> None:
    with (
        Running(loop, collection) as running,
        Client(running.address, timeout=5, credentials=Credentials(ca=authority.file)) as client,
        pytest.raises(QueryFailed, match="does not speak TLS: ask without a ca"),
    ):
        client.get_release()


def test_a_certificate_for_another_host_is_not_the_gateways(
    loop: LoopThread, collection: Collection, folder: pathlib.Path, authority: Authority
) -> None:
    cert, key = authority.issue("elsewhere", "gateway.example")
    security = Security(tls_cert=cert, tls_key=key)
    with Running(loop, collection, security=security, credentials=Credentials(ca=authority.file)) as running:
        assert outcome(lambda: running.client.search(vector=ONE)) == "UNAVAILABLE"


def test_the_roles_of_all_methods_are_known() -> None:
    service = retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"]
    methods = {f"/{service.full_name}/{method.name}" for method in service.methods}
    others = {method for method in ROLES if not method.startswith(f"/{service.full_name}/")}
    assert set(ROLES) == methods | others
    assert all(ROLES[method] is not None for method in methods), "nothing of ours is open to everybody"
    assert {method for method in others if ROLES[method] is None} == {
        f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List")
    }


@pytest.mark.parametrize("method", [method for method, role in ROLES.items() if role is not None])
def test_no_method_answers_without_a_token(clear: Running, method: str) -> None:
    with grpc.insecure_channel(clear.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_what_is_not_known_needs_an_admin(clear: Running) -> None:
    def code(token: str) -> str:
        with grpc.insecure_channel(clear.address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/made.up/Method")(b"", timeout=5, metadata=[("authorization", f"Bearer {token}")])
        return str(caught.value.code().name)

    assert [code(TOKENS[name]) for name in ("false", "read", "admin")] == [
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "UNIMPLEMENTED",
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", TOKENS["read"])],
        [("authorization", f"Basic {TOKENS['read']}")],
        [("authorization", "Bearer ")],
        [("authorization", f"Bearer {TOKENS['read']}x")],
        [("authorization", f"Bearer {TOKENS['false']}"), ("authorization", f"Bearer {TOKENS['read']}")],
        [("authorization-bin", f"Bearer {TOKENS['read']}".encode())],
        [("x-authorization", f"Bearer {TOKENS['read']}")],
    ],
)
def test_a_token_in_any_other_way_is_none(clear: Running, metadata: list) -> None:
    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=ONE), k=1).SerializeToString()
    search = clear.raw("/lookalike.retrieval.v1.RetrievalService/Search")
    good = [("authorization", f"bearer {TOKENS['read']}")]
    assert search(request, timeout=5, metadata=good), "the scheme is written small or large"
    with pytest.raises(grpc.RpcError) as caught:
        search(request, timeout=5, metadata=metadata)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_who_is_not_let_in_can_not_even_send(clear: Running) -> None:
    with Client(clear.address, timeout=30) as stranger:
        assert outcome(lambda: stranger.search(image=bytes(15 * 2**20))) == "UNAUTHENTICATED"
    assert clear.admission.refused.total() == 0 and not clear.admission.in_flight.total()


def test_nothing_secret_is_logged_and_what_admins_do_is(
    clear: Running, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = png(4242)
    with caplog.at_level(logging.DEBUG):
        clear.client.search(image=image)
        outcome(lambda: clear.client.search(image=image[:-30]))
        for name in TOKENS:
            asked(clear, Credentials(token_file=str(folder / name)))
    audit = [record.fields for record in caplog.records if record.name == "serving.audit"]
    assert [(line["method"], line["code"], line["principal"], line["role"]) for line in audit] == [
        ("ListReleases", "PERMISSION_DENIED", "read-er", "read"),
        ("ListReleases", "OK", "admin-er", "admin"),
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in audit)
    lines = [record.getMessage() for record in caplog.records if record.name == "serving.gateway.request_log"]
    assert any(line.startswith("Search code=OK") and f"release_id={clear.collection.current}" in line for line in lines)
    assert any(line.startswith("Search code=INVALID_ARGUMENT") for line in lines)
    assert any(line.startswith("Search code=UNAUTHENTICATED") for line in lines)
    written = caplog.text + repr([vars(record) for record in caplog.records])
    for secret in (*TOKENS.values(), repr(image)[2:40], image.hex()[:40]):
        assert secret not in written


def test_tokens_change_without_a_restart(loop: LoopThread, collection: Collection, tmp_path: pathlib.Path) -> None:
    file, old, new = tmp_path / "tokens", tmp_path / "old", tmp_path / "new"
    old.write_text("o" * 30)
    new.write_text("n" * 30)
    file.write_text("o" * 30)
    security = Security(read_tokens=str(file))
    with Running(loop, collection, security=security, credentials=Credentials(token_file=str(old))) as running:
        running.client.wait_until_serving(60)
        with Client(running.address, credentials=Credentials(token_file=str(new))) as newer:
            assert outcome(lambda: running.client.search(vector=ONE)) == "OK"
            assert outcome(lambda: newer.search(vector=ONE)) == "UNAUTHENTICATED"
            file.write_text("n" * 30)
            until(lambda: outcome(lambda: newer.search(vector=ONE)) == "OK", 3)
            assert outcome(lambda: running.client.search(vector=ONE)) == "UNAUTHENTICATED"


def test_certificates_change_without_a_restart(loop: LoopThread, collection: Collection, tmp_path, caplog) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key = old.issue("server")
    security = Security(tls_cert=cert, tls_key=key)
    with Running(loop, collection, security=security, credentials=Credentials(ca=old.file)) as running:
        running.client.wait_until_serving(60)

        def connect(authority: Authority) -> str:
            with Client(running.address, timeout=5, credentials=Credentials(ca=authority.file)) as client:
                return outcome(lambda: client.search(vector=ONE))

        assert [connect(authority) for authority in (old, new)] == ["OK", "UNAVAILABLE"]
        new.issue("server")
        assert [connect(authority) for authority in (old, new)] == ["UNAVAILABLE", "OK"]
        assert outcome(lambda: running.client.search(vector=ONE)) == "OK", "an open connection goes on"
        pathlib.Path(key).write_text("half a key")
        assert connect(new) == "OK", "what can't be used doesn't replace what can"
        assert "the gateway's certificate can't be renewed" in caplog.text
        old.issue("server")
        assert [connect(authority) for authority in (old, new)] == ["OK", "UNAVAILABLE"]


def test_the_encoder_over_tls_with_certificates_that_change(loop: LoopThread, collection: Collection, tmp_path) -> None:
    authority, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    server_cert, server_key = authority.issue("encoder")
    cert, key = authority.issue("gateway")
    pair = (pathlib.Path(server_key).read_bytes(), pathlib.Path(server_cert).read_bytes())
    ca = pathlib.Path(authority.file).read_bytes()
    tls = grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=True)
    security = Security(encoder_ca=authority.file, encoder_cert=cert, encoder_key=key)
    with Running(loop, collection, security=security, encoder_credentials=tls) as running:
        running.client.wait_until_serving(60)
        assert outcome(lambda: running.client.search(image=png(1))) == "OK"
        other.issue("gateway")
        until(lambda: not running.client.is_serving("lookalike.encoder"))
        assert outcome(lambda: running.client.search(image=png(1))) == "UNAVAILABLE"
        authority.issue("gateway")
        until(lambda: outcome(lambda: running.client.search(image=png(1))) == "OK")
    with Running(loop, collection, encoder_credentials=tls) as running:
        time.sleep(0.3)
        assert not running.client.is_serving(), "in the clear it isn't answered"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "server.key").write_text("no key"), "are not a certificate and its key"),
        (lambda folder: (folder / "server.crt").unlink(), "No such file"),
        (lambda folder: Authority(folder, "x").issue("other"), None),
    ],
)
def test_files_that_can_not_be_used_are_told_at_the_start(
    loop: LoopThread, collection: Collection, tmp_path: pathlib.Path, spoil: Callable, message: str | None
) -> None:
    cert, key = Authority(tmp_path).issue("server")
    spoil(tmp_path)
    running = Running(loop, collection, security=Security(tls_cert=cert, tls_key=key))
    if message is None:
        with running:
            return
    with pytest.raises(ValueError, match=message), running:
        pass


def test_what_changes_something_and_what_tells_of_insides_takes_an_admin() -> None:
    admin = {method.rpartition("/")[2] for method, role in ROLES.items() if role is Role.ADMIN}
    assert admin == {"ListReleases", "Upsert", "BatchUpsert", "Delete", "BatchDelete"}


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
