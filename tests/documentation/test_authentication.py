"""What docs/authentication.md shows is right, and its client is let in."""

import base64
import hashlib
import hmac
import sys
from pathlib import Path

import httpx2
import pytest
from starlette.datastructures import Headers

from app.services.signatures.digests import ContentDigest
from app.services.signatures.verification import SignedRequest, check_signature, key_id_of
from tests.documentation.test_examples import DOCUMENTED_URL, SAMPLE, run
from tests.servers.processes import free_port
from tests.support.documents import CLIENTS, DOCS, code_blocks
from tests.support.running import running
from tests.support.signing import stored_key, wait_until_known

PAGE = DOCS / "authentication.md"
KEY = "ic_an_example_of_an_api_key"


def test_the_signature_that_is_shown_is_right() -> None:
    shown = code_blocks(PAGE, "http")[0]
    head, _, body = shown.rstrip("\n").partition("\n\n")
    first, *fields = head.split("\n")
    method, path, _ = first.split(" ")
    headers = Headers(dict(field.split(": ", 1) for field in fields))
    request = SignedRequest(method, f"https://{headers['host']}{path}", headers, has_body=True)
    secret = hashlib.sha256(KEY.encode()).digest()
    signature = check_signature(request, key_id_of(request), secret)
    digest = ContentDigest(signature.digest or "")
    digest.update(body.encode())
    digest.check()
    # And the lines that are signed are those that the page shows.
    [base] = code_blocks(PAGE, "text")
    mac = base64.b64encode(hmac.digest(secret, base.rstrip("\n").encode(), "sha256")).decode()
    assert headers["signature"] == f"sig1=:{mac}:"
    assert KEY in PAGE.read_text(encoding="utf-8")


async def test_the_signing_client_is_a_program(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    port = free_port()
    program = (CLIENTS / "signed.py").read_text(encoding="utf-8")
    (tmp_path / "python.py").write_text((CLIENTS / "python.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "client.py").write_text(program.replace(DOCUMENTED_URL, f"http://127.0.0.1:{port}"), encoding="utf-8")
    with running("uvicorn", port, environment), pytest.MonkeyPatch.context() as patch:
        key = wait_until_known(stored_key(tmp_path / "data" / "image-classifier.db"), port)
        patch.setenv("API_KEY_ID", str(key.id))
        patch.setenv("API_KEY", key.text)
        # An upload, then a hit.
        output = await run(sys.executable, tmp_path / "client.py", SAMPLE, SAMPLE)
        patch.setenv("API_KEY", "another")
        with pytest.raises(AssertionError, match="401 Unauthorized"):
            await run(sys.executable, tmp_path / "client.py", SAMPLE)
    lines = output.splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"{SAMPLE} ")


@pytest.mark.parametrize("query", ["", "?a=b%20c&x"])
def test_the_client_signs_addresses_as_they_are_sent(query: str) -> None:
    sys.path.insert(0, str(CLIENTS))
    try:
        import signed  # type: ignore[import-not-found]  # from the documentation
    finally:
        sys.path.remove(str(CLIENTS))
    auth = signed.Signature(7, KEY)
    request = httpx2.Request("GET", f"https://photos.example:8443/api/v1/categories{query}")
    [sent] = auth.auth_flow(request)
    received = SignedRequest("GET", str(request.url), Headers(dict(sent.headers)), has_body=False)
    assert check_signature(received, key_id_of(received), hashlib.sha256(KEY.encode()).digest()).digest is None
