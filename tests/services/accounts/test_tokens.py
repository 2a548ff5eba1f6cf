"""Tokens: which key signs, which verify, and what claims no token of ours has."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from app.errors import InvalidToken, TokenExpired
from app.services.accounts.tokens import TokenIssuer
from tests.support.people import TOKEN_KEY

LIFETIME = timedelta(days=1)
OLD_KEY, OTHER_KEY = "o" * 32, "x" * 32
MISSING = object()
# The beginning of the year 2100: test names must be the same in every process.
FUTURE = 4_102_444_800
CLAIMS = {"sub": "5", "gen": 0, "iat": FUTURE - 86_400, "exp": FUTURE, "jti": "a"}


def signed(key: str = TOKEN_KEY, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not MISSING}
    # Of the parts below jwt.encode, which looks at some claims itself.
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm="HS256", headers=headers)


def test_what_is_issued_is_read() -> None:
    issuer = TokenIssuer([TOKEN_KEY], LIFETIME)
    claims = issuer.read(issuer.issue(5, 7).text)
    assert (claims.user_id, claims.generation) == (5, 7)
    assert abs((claims.issued_at - datetime.now(UTC)).total_seconds()) < 60
    assert issuer.read(signed()).user_id == 5


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        *(("sub", value) for value in (
            MISSING, None, True, 5, 5.0, [], ["5"], {}, {"5": 5}, "", "0", "-1", "+5", " 5", "5 ", "5\n", "1_0", "05",
            "5.0", "0x5", "٥", "５", "abc", "NaN", "\x00", "9223372036854775808", "9" * 19, "9" * 400,
        )),
        *(("gen", value) for value in (
            MISSING, None, True, False, "0", 0.0, -1, 2**32, 10**30, [], {}, float("nan"), float("inf"),
        )),
        *(("iat", value) for value in (MISSING, None, True, "0", 1.5, -1, 10**30, [], {}, float("nan"))),
        *(("exp", value) for value in (
            MISSING, None, "soon", [], {}, 10**30, float("inf"), float("nan"), FUTURE + 0.5, str(FUTURE),
        )),
        *(("jti", value) for value in (MISSING, None, 5, [], {})),
        ("nbf", "later"), ("nbf", []), ("nbf", FUTURE), ("nbf", float("inf")),
        ("aud", "device"), ("aud", ["a"]), ("aud", 5),
    ],
)  # fmt: skip
def test_odd_claims_of_a_token_that_we_signed_are_refused(claim: str, value: Any) -> None:
    with pytest.raises(InvalidToken):
        TokenIssuer([TOKEN_KEY], LIFETIME).read(signed(**{claim: value}))


@pytest.mark.parametrize("payload", ["[]", "5", '"5"', "null", "", "{", "[" * 1500, "\x00", '{"sub": ' * 500])
def test_odd_payloads_that_we_signed_are_refused(payload: str) -> None:
    token = jwt.PyJWS().encode(payload.encode(), TOKEN_KEY, algorithm="HS256")
    with pytest.raises(InvalidToken):
        TokenIssuer([TOKEN_KEY], LIFETIME).read(token)


@pytest.mark.parametrize("header", ["[]", "5", "{", "[" * 3000, "[" * 1500 + "]" * 1500, '{"kid": []}', '{"alg": {}}'])
def test_odd_headers_are_refused(header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode()).decode().rstrip("=")
    for token in (f"{encoded}.e30.aaaa", f"{encoded}..", f".{encoded}.", "..", "\ud800.a.b", "é.é.é"):
        with pytest.raises(InvalidToken):
            TokenIssuer([TOKEN_KEY], LIFETIME).read(token)


def test_the_first_key_signs_and_both_verify() -> None:
    before, during, after = (TokenIssuer(keys, LIFETIME) for keys in ([OLD_KEY], [TOKEN_KEY, OLD_KEY], [TOKEN_KEY]))
    old, new = before.issue(5, 0).text, during.issue(5, 0).text
    assert during.read(old).user_id == during.read(new).user_id == after.read(new).user_id == 5
    for issuer, token in ((after, old), (before, new)):
        with pytest.raises(InvalidToken):
            issuer.read(token)
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    assert not {OLD_KEY, TOKEN_KEY} & set(jwt.get_unverified_header(new).values())


def test_a_token_of_an_earlier_version_names_no_key() -> None:
    issuer = TokenIssuer([TOKEN_KEY, OLD_KEY], LIFETIME)
    assert issuer.read(signed(TOKEN_KEY)).user_id == issuer.read(signed(OLD_KEY)).user_id == 5
    with pytest.raises(InvalidToken):
        issuer.read(signed(OTHER_KEY))
    for key in (TOKEN_KEY, OLD_KEY):
        with pytest.raises(TokenExpired):
            issuer.read(signed(key, exp=1_000_000_000))


@pytest.mark.parametrize("key_id", ["", "unknown", "../../etc/passwd", "a" * 2000])
def test_a_token_that_names_another_key_is_refused(key_id: str) -> None:
    with pytest.raises(InvalidToken):
        TokenIssuer([TOKEN_KEY], LIFETIME).read(signed(headers={"kid": key_id}))
