"""Classify photos from a server: each request is signed with an API key, which is never sent. Needs python.py, too."""

import base64
import hashlib
import hmac
import os
import secrets
import sys
import time
from collections.abc import Generator
from typing import Any

import httpx2
from python import compress_image, perceptual_hash  # the client beside this one: equal bytes, so equal hashes

API = "http://127.0.0.1:8000/api/v1"


class Signature(httpx2.Auth):
    """Signs every request of a client: HTTP Message Signatures (RFC 9421) and Content-Digest (RFC 9530)."""

    requires_request_body = True

    def __init__(self, key_id: int, api_key: str) -> None:
        self._key_id = key_id
        self._secret = hashlib.sha256(api_key.encode()).digest()  # the service knows no more of the key than this

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        path, _, query = request.url.raw_path.decode().partition("?")
        covered = {
            "@method": request.method,
            "@authority": request.headers["Host"],
            "@path": path,
            "@query": f"?{query}",
        }
        if request.content:
            digest = base64.b64encode(hashlib.sha256(request.content).digest()).decode()
            request.headers["Content-Digest"] = f"sha-256=:{digest}:"
        for name in ("content-digest", "content-type", "x-user-id", "idempotency-key"):
            if name in request.headers:
                covered[name] = request.headers[name]
        names = " ".join(f'"{name}"' for name in covered)
        created, nonce = int(time.time()), secrets.token_hex(16)  # a nonce is good for one request
        parameters = f'({names});created={created};keyid="{self._key_id}";nonce="{nonce}"'
        lines = [f'"{name}": {value}' for name, value in covered.items()]
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        signature = base64.b64encode(hmac.digest(self._secret, base.encode(), "sha256")).decode()
        request.headers["Signature-Input"] = f"sig1={parameters}"
        request.headers["Signature"] = f"sig1=:{signature}:"
        yield request


def classify_photo(client: httpx2.Client, data: bytes, user_id: str) -> dict[str, Any]:
    """Return the service's answer; `["data"]["category"]` is the category. Raises httpx2.HTTPStatusError."""
    headers = {"X-User-ID": user_id, "Idempotency-Key": secrets.token_hex(16)}  # a repeat counts once
    known = {"image_hash": hashlib.sha256(data).hexdigest(), "perceptual_hash": perceptual_hash(data)}
    answer = post(client, "/classify/check-cache", headers=headers, json=known)
    if not answer["cached"]:
        answer = post(client, "/classify", headers=headers, files={"image": ("photo.jpg", data, "image/jpeg")})
    return answer


def post(client: httpx2.Client, path: str, attempts: int = 3, **request: Any) -> dict[str, Any]:
    """POST to the service; where the answer is lost, again with the same key and a new signature."""
    try:
        response = client.post(API + path, **request)
    except httpx2.TransportError:
        if attempts == 1:
            raise
        time.sleep(1)
        return post(client, path, attempts - 1, **request)
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


if __name__ == "__main__":
    signature = Signature(int(os.environ["API_KEY_ID"]), os.environ["API_KEY"])
    with httpx2.Client(auth=signature, timeout=120) as service:
        for photo in sys.argv[1:]:
            print(photo, classify_photo(service, compress_image(photo), "customer-1")["data"]["category"])
