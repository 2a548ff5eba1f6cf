"""Signed requests through proxies: what is signed is what the client saw, its scheme and its authority."""

import ssl
from pathlib import Path

import httpx2
import pytest

from tests.deploy.conftest import Site
from tests.deploy.test_caddy import caddy
from tests.fakes.images import jpeg_photo
from tests.servers.nginx import Nginx
from tests.support.signing import Key, content_digest, sign, stored_key, wait_until_known

CLASSIFY = "/api/v1/classify"
BY_PARTS = ["@method", "@authority", "@path", "@query", "content-digest"]


def address_of(nginx: Nginx, *, is_encrypted: bool) -> str:
    return f"https://localhost:{nginx.tls_port}" if is_encrypted else f"http://127.0.0.1:{nginx.port}"


@pytest.fixture(scope="module")
def key(site: Site) -> Key:
    return wait_until_known(stored_key(site.database), site.port)


def check_signed(api: httpx2.Client, key: Key, number: int) -> None:
    """Photos, questions and odd addresses pass; a copy and another body do not."""
    photo = jpeg_photo(60 + number, 50)
    for components in (None, BY_PARTS):
        answer = api.send(sign(api.build_request("POST", CLASSIFY, files={"image": photo}), key, components=components))
        assert answer.status_code == 200, answer.text
    odd = sign(api.build_request("GET", "/api/v1/categories?q=a%20b+c&empty=&%E4%B8%AD=%2f"), key)
    # Its signature is right, and nothing else of it.
    assert api.send(odd).json()["error"]["code"] == "invalid_request"
    assert api.send(odd).json()["error"]["code"] == "nonce_reused"
    other = sign(api.build_request("POST", CLASSIFY, files={"image": photo}), key, digest=content_digest(b""))
    assert api.send(other).json()["error"]["code"] == "digest_mismatch"
    # What the proxy says of the client's connection counts, not what the client says of it.
    scheme = {"https": "http", "http": "https"}[api.base_url.scheme]
    request = api.build_request("GET", "/api/v1/categories", headers={"X-Forwarded-Proto": scheme})
    assert api.send(sign(request, key)).status_code == 200


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "tls"])
def test_behind_nginx(site: Site, key: Key, *, is_encrypted: bool) -> None:
    nginx = site.encrypted if is_encrypted else site.plain
    trust = ssl.create_default_context(cafile=str(nginx.authority)) if is_encrypted else False
    with httpx2.Client(base_url=address_of(nginx, is_encrypted=is_encrypted), verify=trust, timeout=120) as api:
        check_signed(api, key, 1 + is_encrypted)


def test_behind_caddy(site: Site, key: Key, tmp_path: Path) -> None:
    with caddy(f"127.0.0.1:{site.port}", tmp_path) as url, httpx2.Client(base_url=url, timeout=120) as api:
        check_signed(api, key, 3)
