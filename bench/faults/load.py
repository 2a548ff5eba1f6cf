"""The clients: some look known photos up, some upload new ones, until the end; every answer is kept.

Each request has a user id of its own, by which its row in the log is found also where no answer came back. An upload
that fails is tried again, as clients do; a look-up is not.
"""

import asyncio
import hashlib
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import httpx2

from tests.fakes.images import noisy_jpeg

PHOTO_SIZE = (64, 48)
KNOWN_PHOTOS = 20
LOOKERS = 10
UPLOADERS = 3
LOOK_UP_PAUSE_SECONDS = 0.05
UPLOAD_PAUSE_SECONDS = 0.1
RETRY_PAUSE_SECONDS = 0.3
# Every so many photos are uploaded by two clients at once.
TWINS_OF = 4
# Of an answer that is neither a classification nor an error in our format, such as a miss of a known photo.
NO_CLASSIFICATION = "no_classification"
# Longer than the service may take in all.
PATIENCE_SECONDS = 120.0
PROBE_EVERY_SECONDS = 0.05
PROBE_TIMEOUT_SECONDS = 60.0
# Photos that have no answer when the load is over are uploaded again, for so long at most.
FINISH_WITHIN_SECONDS = 60.0
FINISH_AT_ONCE = 8
FINISH_PAUSE_SECONDS = 0.5


class Kind(StrEnum):
    """What a request was: one of those before the load and after it, or of the load itself."""

    AROUND = "before or after"
    HIT = "known photo"
    UPLOAD = "new photo"


class Answer(NamedTuple):
    """What came back, if anything: status 0 is a connection that was refused or broke. Times are `time.monotonic()`.

    `code` is that of an error, or NO_CLASSIFICATION.
    """

    kind: Kind
    user_id: str
    image_hash: str
    asked_at: float
    answered_at: float
    status: int
    request_id: str = ""
    code: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """Whether the client was told what the photo shows."""
        return self.status == 200 and self.code != NO_CLASSIFICATION


class NotPreparedError(Exception):
    """The service did not classify the first photos, before any fault."""


@dataclass(slots=True)
class Load:
    """Asks the service at `url` until `stop`. `crowd` is how many further clients upload without a pause."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    photos: dict[str, bytes] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    crowd: int = 0
    _requests: int = 0
    _stopped: bool = False

    async def prepare(self) -> None:
        """Upload the photos that are looked up later."""
        async with self._client() as client:
            self.known = [self._new_photo() for _ in range(KNOWN_PHOTOS)]
            await asyncio.gather(*(self._upload(client, image_hash, Kind.AROUND) for image_hash in self.known))
        if bad := [answer for answer in self.answers if not answer.is_acknowledged]:
            raise NotPreparedError(f"the first uploads were answered {bad[0].status} {bad[0].code}")

    async def run(self) -> None:
        """Ask until `stop`, and return when all answers are there."""
        async with self._client() as client, asyncio.TaskGroup() as clients:
            for number in range(LOOKERS):
                clients.create_task(self._look_up_again_and_again(client, number))
            for _ in range(UPLOADERS):
                clients.create_task(self._upload_again_and_again(client))
            crowd: set[asyncio.Task[None]] = set()
            while not self._stopped:
                crowd = {each for each in crowd if not each.done()}
                while len(crowd) < self.crowd:
                    crowd.add(clients.create_task(self._upload_again_and_again(client, is_crowd=True)))
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopped = True

    async def finish(self) -> None:
        """Upload the photos again that got no answer, as their users would, until they are classified."""
        done = {answer.image_hash for answer in self.answers if answer.is_acknowledged}
        left = [image_hash for image_hash in self.photos if image_hash not in done]
        places = asyncio.Semaphore(FINISH_AT_ONCE)
        deadline = time.monotonic() + FINISH_WITHIN_SECONDS

        async def insist(client: httpx2.AsyncClient, image_hash: str) -> None:
            async with places:
                for _ in _until(deadline):
                    if await self._upload(client, image_hash, Kind.AROUND):
                        break
                    await asyncio.sleep(FINISH_PAUSE_SECONDS)

        async with self._client() as client:
            await asyncio.gather(*(insist(client, image_hash) for image_hash in left))

    async def until_steady(self, seconds: float, within_seconds: float) -> None:
        """Return when for so long there were answers to both kinds of requests and all of them 200, or in time."""
        for _ in _until(time.monotonic() + within_seconds):
            if self._is_steady(time.monotonic() - seconds):
                return
            await asyncio.sleep(0.1)

    def _is_steady(self, since: float) -> bool:
        recent = [answer for answer in self.answers if answer.answered_at > since]
        return {answer.kind for answer in recent} >= {Kind.HIT, Kind.UPLOAD} and all(
            answer.is_acknowledged for answer in recent
        )

    async def _look_up_again_and_again(self, client: httpx2.AsyncClient, number: int) -> None:
        while not self._stopped:
            number += 1
            image_hash = self.known[number % len(self.known)]
            await self._ask(client, Kind.HIT, image_hash, "/check-cache", json={"image_hash": image_hash})
            await asyncio.sleep(LOOK_UP_PAUSE_SECONDS)

    async def _upload_again_and_again(self, client: httpx2.AsyncClient, *, is_crowd: bool = False) -> None:
        while not self._stopped and (self.crowd or not is_crowd):
            image_hash = self._new_photo()
            twins = 2 if len(self.photos) % TWINS_OF == 0 else 1
            await asyncio.gather(*(self._upload_until_answered(client, image_hash) for _ in range(twins)))
            if not is_crowd:
                await asyncio.sleep(UPLOAD_PAUSE_SECONDS)

    async def _upload_until_answered(self, client: httpx2.AsyncClient, image_hash: str) -> None:
        while not self._stopped:
            if await self._upload(client, image_hash, Kind.UPLOAD):
                return
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    async def _upload(self, client: httpx2.AsyncClient, image_hash: str, kind: Kind) -> bool:
        files = {"image": ("photo.jpg", self.photos[image_hash], "image/jpeg")}
        return await self._ask(client, kind, image_hash, "", files=files)

    async def _ask(self, client: httpx2.AsyncClient, kind: Kind, image_hash: str, path: str, **content: Any) -> bool:
        """Send one request and note what came back; return whether it was a classification."""
        self._requests += 1
        user_id = f"user-{self._requests}"
        asked_at = time.monotonic()
        try:
            response = await client.post(f"/api/v1/classify{path}", headers={"X-User-ID": user_id}, **content)
        except httpx2.HTTPError:
            self.answers.append(Answer(kind, user_id, image_hash, asked_at, time.monotonic(), 0))
            return False
        answer = Answer(
            kind,
            user_id,
            image_hash,
            asked_at,
            time.monotonic(),
            response.status_code,
            response.headers.get("x-request-id", ""),
            _code(response),
        )
        self.answers.append(answer)
        return answer.is_acknowledged

    def _client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS, limits=limits)

    def _new_photo(self) -> str:
        photo = noisy_jpeg(*PHOTO_SIZE)
        image_hash = hashlib.sha256(photo).hexdigest()
        self.photos[image_hash] = photo
        return image_hash


class Liveness:
    """Asks /health/live all the time, each time on a new connection, as an orchestrator does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._last = time.monotonic()
        self._longest = 0.0
        self._ending = threading.Event()

    @property
    def longest_silence_seconds(self) -> float:
        """The longest time without an answer 200 so far."""
        return max(self._longest, time.monotonic() - self._last)

    def run(self) -> None:
        """Ask in this thread until `end`."""
        while not self._ending.is_set():
            if self._answers():
                now = time.monotonic()
                self._longest = max(self._longest, now - self._last)
                self._last = now
            self._ending.wait(PROBE_EVERY_SECONDS)

    def end(self) -> None:
        self._ending.set()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/api/v1/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def watched(port: int) -> Iterator[Liveness]:
    """Watch the service at 127.0.0.1:`port` for the length of the block."""
    liveness = Liveness(port)
    thread = threading.Thread(target=liveness.run, name="liveness", daemon=True)
    thread.start()
    try:
        yield liveness
    finally:
        liveness.end()
        thread.join()


def _until(deadline: float) -> Iterator[None]:
    """Go round until `time.monotonic()` is `deadline`."""
    while time.monotonic() < deadline:
        yield


def _code(response: httpx2.Response) -> str:
    """Return the code of an error, nothing for a classification, and NO_CLASSIFICATION for all else."""
    try:
        body = response.json()
        return "" if response.is_success and body["data"]["category"] else str(body["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return NO_CLASSIFICATION
