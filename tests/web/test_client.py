"""image-classifier.js in a real browser: what it makes of a photo, and how a web developer uses it."""

import base64
import io
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.async_api import Page, Route

from app.photo import perceptual_hash
from app.web.pages import FOLDER
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.images import CORNERS, corners, encode, exif_rotated, gps_tagged, noisy_jpeg
from tests.servers.browser import INSECURE_HOST
from tests.support.documents import CLIENTS, DOCS, code_blocks
from tests.support.pictures import jpeg, scene
from tests.support.vectors import VECTORS, drawn

CLIENT = "image-classifier.js"
COFFEE = DOCS / "samples" / "coffee.jpg"
DOCUMENTED_URL = "http://127.0.0.1:8000"
COMPRESS = """async data => {
  const { compressPhoto } = await import("/assets/image-classifier.js");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const jpeg = new Uint8Array(await (await compressPhoto(new Blob([bytes]))).arrayBuffer());
  return btoa(Array.from(jpeg, (byte) => String.fromCharCode(byte)).join(""));
}"""
CLASSIFY = """async ([data, options]) => {
  const { classifyPhoto } = await import("/assets/image-classifier.js");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return classifyPhoto(new Blob([bytes]), options);
}"""
PERCEPTUAL = """async data => {
  const { perceptualHash } = await import("/assets/image-classifier.js");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return perceptualHash(new Blob([bytes]));
}"""
DIGEST = """async length => {
  const { classifyPhoto } = await import("/assets/image-classifier.js");
  // Bytes that no browser takes for a picture.
  return (await classifyPhoto(new Blob([new Uint8Array(length).fill(length)]))).photo.hash;
}"""
FAILURE = """async () => {
  const { ClassifyError, classifyPhoto } = await import("/assets/image-classifier.js");
  return classifyPhoto(new Blob(["x"])).catch((error) => [error instanceof ClassifyError, error.code, error.message]);
}"""
ABORT = """async data => {
  const { classifyPhoto } = await import("/assets/image-classifier.js");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const controller = new AbortController();
  const onStep = ({ name }) => name === "check" && controller.abort(new Error("enough"));
  return classifyPhoto(new Blob([bytes]), { signal: controller.signal, onStep }).catch((error) => error.message);
}"""


async def compressed(page: Page, photo: bytes) -> bytes:
    return base64.b64decode(await page.evaluate(COMPRESS, base64.b64encode(photo).decode()))


@pytest.fixture
async def demo(page: Page, service_url: str) -> Page:
    """A page of the service, on which modules can be imported."""
    await page.goto(f"{service_url}/demo")
    return page


async def test_the_long_edge_is_1024_pixels_at_most(demo: Page) -> None:
    for size, expected in (((2048, 1000), (1024, 500)), ((500, 3000), (171, 1024)), ((300, 200), (300, 200))):
        with Image.open(io.BytesIO(await compressed(demo, noisy_jpeg(*size)))) as image:
            assert (image.format, image.size) == ("JPEG", expected)


async def test_the_photo_stands_upright(demo: Page) -> None:
    for orientation in range(1, 9):
        photo = await compressed(demo, exif_rotated(orientation, width=640, height=480))
        with Image.open(io.BytesIO(photo)) as image:
            assert (image.size, corners(image)) == ((640, 480), CORNERS), orientation
            assert not image.getexif()


async def test_metadata_stays_behind_and_the_same_photo_gives_the_same_bytes(demo: Page) -> None:
    photo = await compressed(demo, gps_tagged())
    assert b"SECRET" not in photo
    assert await compressed(demo, gps_tagged()) == photo


async def test_the_perceptual_hash_is_that_of_the_server(demo: Page) -> None:
    for width, height, pixel, expected in VECTORS:
        png = base64.b64encode(encode(drawn(width, height, pixel), "PNG")).decode()
        assert await demo.evaluate(PERCEPTUAL, png) == expected
    small = base64.b64encode(jpeg(scene(1, (31, 200)))).decode()
    assert await demo.evaluate(PERCEPTUAL, small) is None
    # Decoders of JPEG round differently.
    photo = await compressed(demo, COFFEE.read_bytes())
    ours = perceptual_hash(photo)
    assert ours is not None
    theirs = await demo.evaluate(PERCEPTUAL, base64.b64encode(photo).decode())
    assert (ours ^ int(theirs, 16)).bit_count() <= 2


async def test_what_is_transparent_becomes_white(demo: Page) -> None:
    photo = await compressed(demo, encode(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "PNG"))
    with Image.open(io.BytesIO(photo)) as image:
        assert image.getpixel((32, 32)) == (255, 255, 255)


async def test_the_hash_is_that_of_the_bytes_and_the_user_is_named(demo: Page, service: httpx2.AsyncClient) -> None:
    data = base64.b64encode(COFFEE.read_bytes()).decode()
    answers: list[dict[str, Any]] = [await demo.evaluate(CLASSIFY, [data, {"userId": "手机-1"}]) for _ in range(2)]
    photo = await compressed(demo, COFFEE.read_bytes())
    report = {"hash": sha256(photo).hexdigest(), "bytes": len(photo), "compressed": True}
    assert [answer["photo"] for answer in answers] == [report | {"uploaded": True}, report | {"uploaded": False}]
    assert [answer["from_cache"] for answer in answers] == [False, True]
    for answer in answers:
        logged = (await service.get(f"/api/v1/requests/{answer['request_id']}")).json()["data"]
        assert (logged["user_id"], logged["image_hash"]) == ("手机-1", report["hash"])


async def test_the_work_can_be_ended(demo: Page, service: httpx2.AsyncClient) -> None:
    assert await demo.evaluate(ABORT, base64.b64encode(COFFEE.read_bytes()).decode()) == "enough"
    today = (await service.get("/api/v1/stats/today")).json()["data"]
    assert today["total_requests"] == 0


async def test_pages_without_https_hash_alike(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo".replace("127.0.0.1", INSECURE_HOST))
    known = {"success": True, "cached": True, "data": {}}
    await page.route("**/classify/check-cache", lambda route: route.fulfill(json=known))
    # Around the ends of SHA-256's blocks of 64 bytes, whose last 8 are the length.
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 200_000):
        assert await page.evaluate(DIGEST, length) == sha256(bytes([length % 256]) * length).hexdigest(), length


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "null"), (200, "<html>"), (403, '{"error": "no"}'), (429, '{"message": "slow"}'), (502, '{"error": null}')],
)
async def test_what_a_gateway_says_is_an_error_of_ours(
    demo: Page, page_problems: list[str], status: int, body: str
) -> None:
    await demo.route("**/classify/check-cache", lambda route: route.fulfill(status=status, body=body))
    assert await demo.evaluate(FAILURE) == [True, "http_error", f"HTTP {status}"]
    page_problems.clear()


@pytest.mark.parametrize("status", [429, 503])
async def test_it_asks_again_when_it_was_told_to_wait(demo: Page, page_problems: list[str], status: int) -> None:
    asked = 0

    async def answer(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await route.fulfill(status=status, headers={"Retry-After": "0.01"}, json={"success": False})
        else:
            await route.fulfill(json={"success": True, "cached": True, "data": {}})

    await demo.route("**/classify/check-cache", answer)
    hashed = await demo.evaluate(DIGEST, 3)
    assert (hashed, asked) == (sha256(b"\3\3\3").hexdigest(), 2)
    page_problems.clear()


async def test_the_browser_example_works_on_a_page_of_another_origin(page: Page, service_url: str) -> None:
    example = (CLIENTS / "browser.js").read_text(encoding="utf-8")
    assert DOCUMENTED_URL in example
    files = {
        "/": ("text/html", "<link rel=icon href=data:,><input type=file><script type=module src=main.js></script>"),
        "/main.js": ("text/javascript", example.replace(DOCUMENTED_URL, service_url)),
        f"/{CLIENT}": ("text/javascript", (FOLDER / "assets" / CLIENT).read_text(encoding="utf-8")),
    }

    async def serve(request: HTTPRequest) -> HTTPResponse:
        kind, text = files[request.path]
        return HTTPResponse(200, text.encode(), {"content-type": kind})

    with running_http_server(serve) as url:
        await page.goto(url)
        for said in ("foods uploaded", "foods cache hit"):
            async with page.expect_console_message() as message:
                await page.set_input_files("input", [])
                await page.set_input_files("input", COFFEE)
            assert (await message.value).text == said


async def test_the_documented_options_work(demo: Page, service_url: str) -> None:
    (example,) = code_blocks(DOCS / "demo.md", "js")
    server = "https://photos.example.com"
    assert server in example
    code = f"""async data => {{
      const {{ classifyPhoto }} = await import("/assets/{CLIENT}");
      const controller = new AbortController();
      const file = new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))]);
      {example.replace(server, service_url)}
      return answer;
    }}"""
    said: list[str] = []
    demo.on("console", lambda message: said.append(message.text.split()[0]))
    answer = await demo.evaluate(code, base64.b64encode(COFFEE.read_bytes()).decode())
    assert answer["data"].keys() == {"category", "confidence", "description", "description_language"}
    assert answer["photo"].keys() == {"hash", "bytes", "compressed", "uploaded"}
    assert said == [name for name in ("compress", "hash", "check", "upload") for _ in range(2)]
