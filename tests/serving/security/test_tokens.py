import pathlib

import pytest

from serving.gateway.checks import ConfigError
from serving.security.tokens import Principal, Role, Tokens

READ, OTHER, ADMIN = "r" * 32, "o" * 32, "a" * 32


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: pathlib.Path) -> dict[Role, str]:
    (tmp_path / "read").write_text(f"# who may ask\n\nshop {READ}\n{OTHER}\n")
    (tmp_path / "admin").write_text(f"ops {ADMIN}\n")
    return {Role.READ: str(tmp_path / "read"), Role.ADMIN: str(tmp_path / "admin")}


def test_says_whose_a_token_is(files: dict[Role, str]) -> None:
    tokens = Tokens(files)
    assert tokens.who(READ) == Principal("shop", Role.READ)
    assert tokens.who(OTHER) == Principal("read:4", Role.READ), "a token without a name is known by its place"
    assert tokens.who(ADMIN) == Principal("ops", Role.ADMIN)


@pytest.mark.parametrize(
    "token", ["", "x", READ[:-1], READ + "r", READ.upper(), "é" * 16, "\udcff" * 16, "x" * 100_000]
)
def test_nobodys_tokens(files: dict[Role, str], token: str) -> None:
    assert Tokens(files).who(token) is None


def test_all_are_compared_whatever_was_found(files: dict[Role, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared, tokens = [], Tokens(files)
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr("serving.security.tokens.hmac.compare_digest", counting)
    for token in (READ, ADMIN, "nobody's", "x" * 2000):
        compared.clear()
        tokens.who(token)
        assert compared == [(32, 32)] * 3


def test_files_are_read_again_when_they_change(files: dict[Role, str]) -> None:
    clock = Clock()
    tokens = Tokens(files, clock)
    new = "n" * 40
    pathlib.Path(files[Role.READ]).write_text(f"shop {READ}\nshop {new}\n")
    clock.now = 1.0
    assert tokens.who(READ) and tokens.who(new), "both are good while clients change over"
    pathlib.Path(files[Role.READ]).write_text(f"shop {new}\n# {READ}\n")
    clock.now = 2.0
    assert tokens.who(new) and not tokens.who(READ)
    pathlib.Path(files[Role.READ]).write_text("")
    clock.now = 3.0
    assert not tokens.who(new), "an empty file lets nobody in"


def test_a_file_that_can_not_be_used_leaves_the_old_ones_good_and_is_told_without_the_token(files, caplog) -> None:
    clock = Clock()
    tokens = Tokens(files, clock)
    pathlib.Path(files[Role.READ]).write_text("a secret sentence\n")
    clock.now = 1.0
    assert tokens.who(READ)
    assert "line 1: a line is a token, or a name and a token" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("short", r"line 1: a token has 16 to 1024 ASCII characters, got 5\."),
        ("\n\nname é" + "x" * 20, "line 3: a token has"),
        ("a b c", "line 1: a line is a token, or a name and a token"),
    ],
)
def test_a_file_that_can_not_be_used_from_the_start(tmp_path: pathlib.Path, text: str, message: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Tokens({Role.READ: str(file)})
    with pytest.raises(ConfigError, match="tokens can't be used"):
        Tokens({Role.READ: str(tmp_path / "none")})
