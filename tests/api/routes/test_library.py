"""The image library over HTTP: what is kept is what was sent, and only its owner can tell that it is there."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import jwt
import pytest
from PIL import Image
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import LibrarySettings, Settings
from app.main import create_app
from app.services.accounts.tokens import kept_secret_key
from tests.fakes.images import GREEN, encode, gif_size_lie, gps_tagged, jpeg_photo, quadrants
from tests.support.libraries import names_of_rows
from tests.support.library_api import JPEG, files_of, person, upload
from tests.support.people import bearer, code
from tests.support.serving import serving


@pytest.fixture
async def owner(service: httpx2.AsyncClient) -> dict[str, str]:
    return await person(service)


async def test_what_is_kept_is_what_was_sent(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings
) -> None:
    answer = await upload(service, owner)
    assert answer.status_code == 201, answer.text
    image = answer.json()
    assert image == {
        "id": image["id"],
        "image_id": image["id"],
        "filename": "image.jpg",
        "format": "jpg",
        "width": 640,
        "height": 480,
        "size_bytes": len(JPEG),
        "sha256": image["sha256"],
        "url": f"/images/{image['id']}/file",
        "thumbnail_url": f"/images/{image['id']}/thumbnail",
        "created_at": image["created_at"],
    }
    assert (await service.get(f"/images/{image['id']}", headers=owner)).json() == image
    assert (await service.get("/images/", headers=owner)).json() == {
        "items": [image],
        "total": 1,
        "skip": 0,
        "limit": 20,
    }
    file = await service.get(image["url"], headers=owner)
    assert file.content == JPEG
    assert file.headers["Content-Type"] == "image/jpeg"
    assert file.headers["Content-Length"] == str(len(JPEG))
    assert file.headers["X-Content-Type-Options"] == "nosniff"
    assert file.headers["Cache-Control"] == "private, no-cache"
    assert file.headers["Content-Disposition"] == "inline; filename=\"image.jpg\"; filename*=UTF-8''image.jpg"
    thumbnail = await service.get(image["thumbnail_url"], headers=owner)
    assert thumbnail.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (256, 192)
    assert [path.name.partition("-")[0] for path in files_of(settings)] == [image["sha256"]] * 2

    assert (await service.delete(f"/images/{image['id']}", headers=owner)).status_code == 204
    assert files_of(settings) == []
    for path in (f"/images/{image['id']}", image["url"], image["thumbnail_url"]):
        assert code(await service.get(path, headers=owner)) == (404, "image_not_found")
    assert code(await service.delete(f"/images/{image['id']}", headers=owner)) == (404, "image_not_found")


async def test_whoever_has_it_is_not_sent_it_again(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    image = (await upload(service, owner)).json()
    for path in (image["url"], image["thumbnail_url"]):
        etag = (await service.get(path, headers=owner)).headers["ETag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = await service.get(path, headers=owner | {"If-None-Match": known})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == etag
        assert (await service.get(path, headers=owner | {"If-None-Match": '"other"'})).status_code == 200


FORMATS = {
    "PNG": ("png", "image/png"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
    "WEBP": ("webp", "image/webp"),
    "HEIF": ("heic", "image/heic"),
    "AVIF": ("avif", "image/avif"),
}


async def test_all_formats(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    for name, (photo_format, media_type) in FORMATS.items():
        # By its bytes, whatever its name and type say.
        image = (await upload(service, owner, encode(quadrants(128, 64), name))).json()
        assert (image["format"], image["width"], image["height"]) == (photo_format, 128, 64)
        assert (await service.get(image["url"], headers=owner)).headers["Content-Type"] == media_type
        thumbnail = await service.get(image["thumbnail_url"], headers=owner)
        assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"


async def test_a_thumbnail_tells_no_secrets(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    data = gps_tagged()
    image = (await upload(service, owner, data)).json()
    assert (await service.get(image["url"], headers=owner)).content == data
    thumbnail = Image.open(io.BytesIO((await service.get(image["thumbnail_url"], headers=owner)).content))
    assert not thumbnail.getexif()
    assert set(thumbnail.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


NO_PICTURES = [
    (b"", "unsupported_image_format"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image_format"),
    (b"<script>alert(1)</script>", "unsupported_image_format"),
    (JPEG[: len(JPEG) // 2], "corrupt_image"),
    # Small enough to be shown to a model without being decoded.
    (jpeg_photo(200, 100)[:-200], "corrupt_image"),
    (encode(quadrants(), "PNG")[:-40], "corrupt_image"),
    (encode(quadrants(), "BMP")[:-400], "corrupt_image"),
    (encode(quadrants(), "WEBP")[:-40], "corrupt_image"),
    (gif_size_lie(8000, 8000), "too_many_pixels"),
]


async def test_what_is_no_picture_is_refused(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings
) -> None:
    for data, expected in NO_PICTURES:
        assert code(await upload(service, owner, data)) == (400, expected), data[:40]
    assert files_of(settings) == []
    assert (await service.get("/images/", headers=owner)).json()["total"] == 0


async def test_forms_that_are_none(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    async def post(**options: Any) -> httpx2.Response:
        return await service.post("/images/upload", headers=owner, **options)

    for answer in (
        await post(files={"image": ("image.jpg", JPEG)}),
        await post(json={}),
    ):
        assert code(answer) == (400, "missing_image")
        assert "'file'" in answer.json()["error"]["message"]
    answer = await post(files=[("file", ("a.jpg", JPEG)), ("file", ("b.jpg", JPEG))])
    assert code(answer) == (400, "too_many_images")
    assert "'file'" in answer.json()["error"]["message"]


NAMES = [
    ("../../../etc/passwd", "passwd"),
    ("..\\..\\windows\\system32\\a.jpg", "a.jpg"),
    ("/etc/shadow", "shadow"),
    ("C:\\photos\\a.jpg", "a.jpg"),
    ("..", "image.jpg"),
    ("...", "image.jpg"),
    ("a/", "image.jpg"),
    (".htaccess", ".htaccess"),
    ("a\x01b\x7f.jpg", "ab.jpg"),
    ("\u202egpj.exe", "gpj.exe"),
    ("照片 1.jpg", "照片 1.jpg"),
    ("u\u0308.jpg", "ü.jpg"),
    ("👨\u200d👩\u200d👧.jpg", "👨\u200d👩\u200d👧.jpg"),
    ("é" * 300 + ".jpeg", "é" * 250 + ".jpeg"),
    ("a." + "b" * 300, "a." + "b" * 253),
    ("'; DROP TABLE users; --.jpg", "'; DROP TABLE users; --.jpg"),
]


async def test_names_are_shown_and_nothing_else(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings
) -> None:
    headers = owner | {"Content-Type": "multipart/form-data; boundary=b"}
    for sent, kept in NAMES:
        # By hand: the client's own encoder changes some of these.
        name = sent.encode().replace(b"\\", b"\\\\")
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n' % (
            name,
            JPEG,
        )
        answer = await service.post("/images/upload", headers=headers, content=body)
        assert answer.status_code == 201, answer.text
        image = answer.json()
        assert image["filename"] == kept
        assert {path.parent for path in files_of(settings)} == {
            settings.upload_dir / image["sha256"][:2] / image["sha256"][2:4]
        }
        disposition = (await service.get(image["url"], headers=owner)).headers["Content-Disposition"]
        assert disposition.isascii()
        assert disposition.count('"') == 2


async def test_pages(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    ids = [(await upload(service, owner, name=f"{number}.jpg")).json()["id"] for number in range(5)]
    newest_first = ids[::-1]

    async def page(**query: int) -> tuple[list[int], int]:
        answer = (await service.get("/images/", headers=owner, params=query)).json()
        return [image["id"] for image in answer["items"]], answer["total"]

    assert await page() == (newest_first, 5)
    assert await page(skip=1, limit=2) == (newest_first[1:3], 5)
    assert await page(skip=5) == ([], 5)
    assert await page(skip=2**63 - 1) == ([], 5)
    for query in ({"skip": -1}, {"limit": 0}, {"limit": 101}, {"skip": 2**63}, {"skip": "x"}):
        assert code(await service.get("/images/", headers=owner, params=query)) == (400, "invalid_request")


async def test_ids_that_are_none(service: httpx2.AsyncClient, owner: dict[str, str]) -> None:
    for number in ("1", str(2**63 - 1)):
        assert code(await service.get(f"/images/{number}", headers=owner)) == (404, "image_not_found")
    for number in ("0", "-1", "x", "1.5", str(2**63), "9" * 5000, "%00", "1%20OR%201=1"):
        for path in (f"/images/{number}", f"/images/{number}/file", f"/images/{number}/thumbnail"):
            assert (await service.get(path, headers=owner)).status_code == 400
        assert (await service.delete(f"/images/{number}", headers=owner)).status_code == 400


async def test_nobody_sees_the_pictures_of_others(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings
) -> None:
    image = (await upload(service, owner)).json()
    good = owner["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(good, options={"verify_signature": False})
    other, deleted = await person(service, "other"), await person(service, "deleted")
    assert (await service.delete("/users/me", headers=deleted)).status_code == 204
    expired = jwt.encode(claims | {"exp": 1}, kept_secret_key(settings.data_dir), algorithm="HS256")
    nobodies = {
        "authentication_required": {},
        "invalid_token": bearer(jwt.encode(claims, "", algorithm="none")),
        "token_expired": bearer(expired),
    }
    requests = [
        ("GET", "/images/"),
        ("GET", f"/images/{image['id']}"),
        ("GET", image["url"]),
        ("GET", image["thumbnail_url"]),
        ("DELETE", f"/images/{image['id']}"),
        ("POST", "/images/upload"),
    ]
    for method, path in requests:
        files = {"file": ("image.jpg", JPEG)} if method == "POST" else None
        for expected, headers in [*nobodies.items(), ("invalid_token", deleted)]:
            answer = await service.request(method, path, headers=headers, files=files)
            assert code(answer) == (401, expected), (method, path)
        if str(image["id"]) in path:
            assert code(await service.request(method, path, headers=other)) == (404, "image_not_found")
    assert (await service.get("/images/", headers=other)).json()["total"] == 0
    assert (await service.get(image["url"], headers=owner)).content == JPEG


async def test_equal_pictures_share_a_file_until_the_last_owner_goes(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings
) -> None:
    others = [await person(service, "second"), await person(service, "third")]
    images = [(headers, (await upload(service, headers)).json()) for headers in (owner, owner, *others)]
    assert len({image["id"] for _, image in images}) == 4
    assert len(files_of(settings)) == 2
    for headers, image in images[:2]:
        await service.delete(f"/images/{image['id']}", headers=headers)
    assert (await service.delete("/users/me", headers=others[0])).status_code == 204
    headers, image = images[3]
    assert (await service.get(image["url"], headers=headers)).content == JPEG
    assert (await service.delete("/users/me", headers=headers)).status_code == 204
    assert files_of(settings) == []


async def test_an_account_that_goes_while_it_uploads_leaves_nothing(
    service: httpx2.AsyncClient, owner: dict[str, str], settings: Settings, engine: AsyncEngine
) -> None:
    pictures = [jpeg_photo(colour=(number, 0, 0)) for number in range(0, 240, 20)]
    uploads = [asyncio.create_task(upload(service, owner, data)) for data in pictures]
    await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
    deleted = await service.delete("/users/me", headers=owner)
    assert deleted.status_code == 204
    assert {answer.status_code for answer in await asyncio.gather(*uploads)} <= {201, 401}
    assert files_of(settings) == []
    assert await names_of_rows(engine) == set()


async def test_a_library_in_s3(settings: Settings, engine: AsyncEngine, s3_bucket: str, s3_endpoint: str) -> None:
    library = LibrarySettings.model_validate({"storage_url": f"s3://{s3_bucket}/library?endpoint={s3_endpoint}"})
    there = settings.model_copy(update={"library": library})
    async with serving(create_app(there)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as client:
        owner = await person(client)
        image = (await upload(client, owner)).json()
        assert (await client.get(image["url"], headers=owner)).content == JPEG
        assert (await client.get(image["thumbnail_url"], headers=owner)).status_code == 200
        assert (await client.delete(f"/images/{image['id']}", headers=owner)).status_code == 204
    assert not settings.upload_dir.exists()


@pytest.fixture
async def small_service(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    """A service whose accounts may keep three pictures and a half, of at most 20 kB."""
    library = LibrarySettings.model_validate(
        {"quota_megabytes": 3.5 * len(JPEG) / 1024 / 1024, "max_upload_bytes": 20_000}
    )
    small = settings.model_copy(update={"library": library})
    async with serving(create_app(small)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as client:
        yield client


async def test_a_library_has_a_quota(small_service: httpx2.AsyncClient, settings: Settings) -> None:
    owner = await person(small_service)
    answers = await asyncio.gather(*(upload(small_service, owner) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [413] * 5
    full = await upload(small_service, owner, jpeg_photo(colour=GREEN))
    assert code(full) == (413, "quota_exceeded")
    assert full.json()["error"]["details"]["used_bytes"] == 3 * len(JPEG)
    assert len(files_of(settings)) == 2
    other = await person(small_service, "other")
    assert (await upload(small_service, other)).status_code == 201
    images = (await small_service.get("/images/", headers=owner)).json()["items"]
    await small_service.delete(f"/images/{images[0]['id']}", headers=owner)
    assert (await upload(small_service, owner)).status_code == 201


async def test_a_picture_has_a_limit(small_service: httpx2.AsyncClient) -> None:
    owner = await person(small_service)
    answer = await upload(small_service, owner, JPEG + bytes(20_000))
    assert code(answer) == (413, "image_too_large")
    assert answer.json()["error"]["details"] == {"max_bytes": 20_000}
