"""What the clients send: one photo of 400 KB, as a hash, as an upload, and as uploads of new photos; and
the hashes of many photos, known and not.

A new photo differs from the others in a comment only: the service hashes, inspects and cleans it like any other, and
its picture costs the model the same.
"""

import hashlib
import io
import json
import random
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from app.config.settings import PROJECT_ROOT
from bench.load import PLACEHOLDER, Request

SAMPLE = PROJECT_ROOT / "docs/samples/coffee.jpg"
# The long edge that clients are told to send.
SIZE = (1024, 683)
# Together they make 400 KB of this sample: grain like that of a phone's sensor in the evening, and little compression.
GRAIN = 20
QUALITY = 92
KNOWN = b"the photo that is known already".ljust(len(PLACEHOLDER))
_BOUNDARY = "bench-4c1f9e0b7a"
_COMMENT = b"\xff\xfe"


def make_photo() -> bytes:
    """Return the photo as a JPEG whose comment is PLACEHOLDER; it needs no shrinking and no turning."""
    with Image.open(SAMPLE) as sample:
        picture = np.asarray(sample.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), dtype=np.float64)
    grain = np.random.default_rng(0).normal(0, GRAIN, (*picture.shape[:2], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    jpeg = buffer.getvalue()
    return jpeg[:2] + _COMMENT + struct.pack(">H", len(PLACEHOLDER) + 2) + PLACEHOLDER + jpeg[2:]


def upload_new(photo: bytes) -> Request:
    """Return the upload of another photo each time."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Request("/api/v1/classify", f"multipart/form-data; boundary={_BOUNDARY}", body)


def upload_known(photo: bytes) -> Request:
    """Return the upload of one and the same photo."""
    return upload_new(_known(photo))


def known_hash(photo: bytes) -> str:
    """Return the SHA-256 of that photo."""
    return hashlib.sha256(_known(photo)).hexdigest()


def check_known(photo: bytes) -> Request:
    """Return the look-up of that photo by its hash."""
    return _check(_body(known_hash(photo), "bench"))


def check_many(image_hashes: Sequence[str], *, users: int, chance: random.Random) -> Request:
    """Return look-ups of these photos in turn, each by one of so many users."""
    names = [f"bench-{number}" for number in range(users)]
    return _check(*(_body(image_hash, chance.choice(names)) for image_hash in image_hashes))


def check_unknown() -> Request:
    """Return the look-up of another hash each time, none of which is known."""
    return _check(_body("0" * (64 - len(PLACEHOLDER)) + PLACEHOLDER.decode(), "bench"))


def hash_of_number(number: int) -> str:
    """Return the hash that stands for a photo; MySQL's SHA2(number, 256) is the same."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def _check(*bodies: bytes) -> Request:
    return Request("/api/v1/classify/check-cache", "application/json", bodies[0], bodies if len(bodies) > 1 else ())


def _body(image_hash: str, user_id: str) -> bytes:
    return json.dumps({"image_hash": image_hash, "user_id": user_id}).encode()


def _known(photo: bytes) -> bytes:
    return photo.replace(PLACEHOLDER, KNOWN)
