"""What a signature says and whether it is right: RFC 9421, `hmac-sha256` alone, one signature for each request.

Nothing here asks what time it is or whether the nonce was used: that is told only to a client that knows the secret.
"""

from collections.abc import ItemsView
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import http_sf
from http_message_signatures import HTTPMessageVerifier, MappingKeyResolver, VerifyResult
from http_message_signatures.algorithms import HMAC_SHA256
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from app.errors import InvalidSignature

INPUT_FIELD = "signature-input"
SIGNATURE_FIELD = "signature"
DIGEST_FIELD = "content-digest"
USER_FIELD = "x-user-id"
# Thirty components and all parameters take a quarter of it; more is not worth parsing.
FIELDS_MAX_CHARACTERS = 8192
NONCE_MIN_CHARACTERS, NONCE_MAX_CHARACTERS = 16, 128
# A BIGINT of every database holds them.
KEY_ID_MAX_DIGITS = 18
# Either says which resource is meant.
TARGETS = ({"@target-uri"}, {"@authority", "@path", "@query"})


class HeaderFields(Protocol):
    """Header fields of a message, each line by itself, in their order."""

    def items(self) -> ItemsView[str, str] | list[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as its client has sent it: `url` has the scheme and the authority that the client saw."""

    method: str
    url: str
    headers: HeaderFields = field(repr=False)
    has_body: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """What a right signature says of itself; times are Unix seconds."""

    created: int
    expires: int | None
    nonce: str
    digest: str | None


class _Verifier(HTTPMessageVerifier):
    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        """Leave the times to the service, which tells too late from wrong."""


def key_id_of(request: SignedRequest) -> int:
    """Return the id of the key that a request says it is signed with.

    Raises:
        InvalidSignature: the fields of the signature are not as documented.
    """
    found = {INPUT_FIELD: "", SIGNATURE_FIELD: ""}
    for name, value in request.headers.items():
        if name in found:
            found[name] += f", {value}" if found[name] else value
    if sum(map(len, found.values())) > FIELDS_MAX_CHARACTERS:
        raise InvalidSignature(
            "Signature-Input and Signature have more than {most} characters.", values={"most": FIELDS_MAX_CHARACTERS}
        )
    try:
        inputs: Any = http_sf.parse(found[INPUT_FIELD].encode(), tltype="dictionary")
    except (ValueError, TypeError):
        raise InvalidSignature("Signature-Input is not a dictionary of structured fields (RFC 9651).") from None
    if len(inputs) != 1:
        raise InvalidSignature("Exactly one signature is expected in Signature-Input.")
    [(_, parameters)] = inputs.values()
    key_id = parameters.get("keyid")
    if not isinstance(key_id, str) or not (key_id.isascii() and key_id.isdecimal()) or len(key_id) > KEY_ID_MAX_DIGITS:
        raise InvalidSignature('The parameter "keyid" has to be the id of an API key, in quotes.')
    return int(key_id)


def verify_mac(request: SignedRequest, key_id: str, secret: bytes) -> VerifyResult:
    """Check that the one signature of a request is `hmac-sha256` by a secret.

    Args:
        request: with the fields of the signature.
        key_id: as it stands in `keyid`.
        secret: of this key.

    Raises:
        InvalidSignature: it is not.
    """
    keys = MappingKeyResolver(public_keys={key_id: secret}, private_keys={})
    try:
        [verified] = _Verifier(signature_algorithm=HMAC_SHA256, key_resolver=keys).verify(request, max_age=None)
    except (HTTPMessageSignaturesException, ValueError, TypeError):
        # The library's text says what is wrong with it, to every stranger, and repeats what was sent.
        raise InvalidSignature from None
    return verified


def check_signature(request: SignedRequest, key_id: int, secret: bytes) -> Signature:
    """Check that a request was signed with `secret`, and that the signature covers what it has to.

    Raises:
        InvalidSignature: it was not, or does not.
    """
    # A key has one name: "007" is not that of key 7.
    verified = verify_mac(request, str(key_id), secret)
    _check_coverage(request, verified.covered_components)
    parameters = verified.parameters
    created, expires, nonce = parameters.get("created"), parameters.get("expires"), verified.nonce
    if not isinstance(created, int):
        raise InvalidSignature('The parameter "created" is missing.')
    if nonce is None or not NONCE_MIN_CHARACTERS <= len(nonce) <= NONCE_MAX_CHARACTERS:
        raise InvalidSignature(
            'The parameter "nonce" has to be {least} to {most} characters long.',
            values={"least": NONCE_MIN_CHARACTERS, "most": NONCE_MAX_CHARACTERS},
        )
    digest = verified.covered_components.get(f'"{DIGEST_FIELD}"')
    return Signature(created, expires if isinstance(expires, int) else None, nonce, digest)


def _check_coverage(request: SignedRequest, components: dict[str, str]) -> None:
    # A field in another form is not what was asked for, except one whose bytes are not ASCII (RFC 9421, 2.1.3).
    covered = {name.removesuffix(";bs").strip('"') for name in components}
    needed = {"@method"}
    if request.has_body:
        needed.add(DIGEST_FIELD)
    if any(name == USER_FIELD for name, _ in request.headers.items()):
        needed.add(USER_FIELD)
    missing = needed - covered
    if missing:
        raise InvalidSignature('The signature does not cover "{missing}".', values={"missing": min(missing)})
    if not any(target <= covered for target in TARGETS):
        raise InvalidSignature('The signature covers neither "@target-uri" nor "@authority", "@path" and "@query".')
