"""The cryptography, by the vectors of RFC 9421, and hostile fields."""

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.errors import DigestMismatch, InvalidSignature
from app.services.signatures.digests import ContentDigest
from app.services.signatures.verification import SignedRequest, check_signature, key_id_of, verify_mac

# RFC 9421, B.1.5, B.2 and B.2.5.
SECRET = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
URL = "https://example.com/foo?param=Value&Pet=dog"
BODY = b'{"hello": "world"}'
DIGEST = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
FIELDS = [
    ("host", "example.com"),
    ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
    ("content-type", "application/json"),
    ("content-digest", DIGEST),
    ("content-length", "18"),
]
INPUT = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
SIGNATURE = "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def request_with(
    signature_input: str, signature: str, fields: Sequence[tuple[str, str]] = FIELDS, url: str = URL
) -> SignedRequest:
    pairs = [*fields, ("signature-input", signature_input), ("signature", signature)]
    headers = Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in pairs])
    return SignedRequest("POST", url, headers, has_body=True)


def test_the_vector_of_the_standard() -> None:
    request = request_with(f"sig-b25={INPUT}", f"sig-b25=:{SIGNATURE}:")
    verified = verify_mac(request, "test-shared-secret", SECRET)
    assert verified.parameters["created"] == 1618884473
    assert list(verified.covered_components) == ['"date"', '"@authority"', '"content-type"', '"@signature-params"']


@pytest.mark.parametrize(
    ("signature_input", "signature", "fields", "url"),
    [
        (INPUT, SIGNATURE, FIELDS, "https://example.org/foo"),
        (INPUT, SIGNATURE, [(n, v.replace("02:07:55", "02:07:56")) for n, v in FIELDS], URL),
        (INPUT, SIGNATURE, [*FIELDS, ("date", "Tue, 20 Apr 2021 02:07:55 GMT")], URL),
        (INPUT.replace("1618884473", "1618884474"), SIGNATURE, FIELDS, URL),
        (INPUT + ';alg="hmac-sha256"', SIGNATURE, FIELDS, URL),
        (INPUT, SIGNATURE.replace("p", "q"), FIELDS, URL),
        (INPUT, "", FIELDS, URL),
    ],
)
def test_any_other_request_is_refused(
    signature_input: str, signature: str, fields: list[tuple[str, str]], url: str
) -> None:
    with pytest.raises(InvalidSignature):
        verify_mac(
            request_with(f"sig={signature_input}", f"sig=:{signature}:", fields, url), "test-shared-secret", SECRET
        )


def test_the_digest_of_the_standard() -> None:
    digest = ContentDigest(DIGEST)
    digest.update(BODY[:5])
    digest.update(BODY[5:])
    digest.check()
    # RFC 9530, 2: of this body, too.
    both = ContentDigest(f"{DIGEST}, sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:, md5=:aaaa:")
    both.update(BODY)
    both.check()
    both.update(b" ")
    with pytest.raises(DigestMismatch):
        both.check()


@pytest.mark.parametrize(
    "field",
    [
        "",
        "sha-256",
        "sha-256=1",
        'sha-256="X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="',
        "sha-256=(:aaaa:)",
        "md5=:aaaa:",
        "sha-256=:a",
        "sha-256=:aaaa:, sha-256=:bbbb:",
        "sha-256=:aaaa:,",
        "SHA-256=:aaaa:",
    ],
)
def test_a_digest_that_cannot_be_checked(field: str) -> None:
    with pytest.raises(DigestMismatch):
        ContentDigest(field)


@pytest.mark.parametrize("wrong", [b"", b"x", BODY + b" "])
def test_one_wrong_digest_among_right_ones_counts(wrong: bytes) -> None:
    digest = ContentDigest(f"{DIGEST}, sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")
    digest.update(wrong)
    with pytest.raises(DigestMismatch):
        digest.check()


HOSTILE = [
    "",
    "sig1",
    "sig1=1",
    'sig1="()"',
    "sig1=()",
    "sig1=();keyid",
    "sig1=();keyid=7",
    "sig1=();keyid=token",
    'sig1=();keyid=""',
    'sig1=();keyid="-7"',
    'sig1=();keyid="7 "',
    'sig1=();keyid="1234567890123456789"',
    'sig1=();keyid="٧"',
    'sig1=();keyid="7", sig2=();keyid="7"',
    'sig1=(();keyid="7"',
    'sig1=();keyid="7";keyid="x"',
    "sig1=" + "(" * 5000,
    'sig1=("' + "x" * 9000 + '");keyid="7"',
]


@pytest.mark.parametrize("field", HOSTILE)
def test_fields_that_are_not_as_documented(field: str) -> None:
    request = request_with("", "sig1=:aaaa:", [*FIELDS])
    pairs = [(n, v) for n, v in request.headers.items() if n != "signature-input"]
    raw = [(n.encode(), v.encode()) for n, v in [*pairs, ("signature-input", field)]]
    with pytest.raises(InvalidSignature):
        key_id_of(SignedRequest("POST", URL, Headers(raw=raw), has_body=True))


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    components=st.lists(
        st.sampled_from(
            [
                '"@method"', '"@target-uri"', '"@query-param";name="param"', '"@query-param"', '"@status"', '"@x"',
                '"date";bs', '"date";sf', '"content-digest";key="sha-512"', '"content-digest";key=1', '"date";tr',
                '"nothing"', '"DATE"', '"@method";req', '"set-cookie"', '"@signature-params"', "date", "1", '""',
                '"@request-target"', '"@query-param";name="%ff"', '"a\\"b"',
            ]
        ),
        max_size=6,
    ),
    parameters=st.lists(
        st.sampled_from(
            [
                ";created=1", ";created=-1", ";created=999999999999999", ";created=1.5", ';created="1"', ";created",
                ';nonce="0123456789abcdef"', ";nonce=1", ";expires=@1", ';alg="none"', ";alg=hmac", ";x=1", ";tag=?1",
            ]
        ),
        max_size=4,
    ),
    signature=st.sampled_from(["", "sig1=:aaaa:", "sig1=1", "sig2=:aaaa:", "sig1=:aaaa:, sig2=:aaaa:", "\xff", "sig1"]),
    url=st.sampled_from([URL, "http:///", "http://[::1/", "http://a b/", "https://example.com/\xff", "http://x:99999/?\x00"]),
)  # fmt: skip
def test_nothing_but_our_error_comes_of_hostile_fields(
    components: list[str], parameters: list[str], signature: str, url: str
) -> None:
    signature_input = f'sig1=({" ".join(components)}){"".join(parameters)};keyid="7"'
    request = request_with(signature_input, signature, url=url)
    with pytest.raises(InvalidSignature):
        check_signature(request, key_id_of(request), SECRET)
