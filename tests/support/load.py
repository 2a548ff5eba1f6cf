"""Load on a running service: many look-ups of known photos, and new photos that are uploaded twice at once."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import httpx2

from tests.fakes.images import jpeg_photo

LOOKERS = 12
PAUSE_SECONDS = 0.03
UPLOAD_EVERY_SECONDS = 0.25
# Longer than the service may take in all.
PATIENCE_SECONDS = 180


class Answer(NamedTuple):
    """What came back; `asked_at` and `answered_at` are `time.monotonic()`, status 0 is a broken connection."""

    asked_at: float
    answered_at: float
    status: int
    request_id: str
    retry_after: str | None


@dataclass(slots=True)
class Load:
    """Asks `url` until `stop`; every answer is in `answers`, and `photos` were uploaded."""

    url: str
    known: list[str]
    answers: list[Answer] = field(default_factory=list)
    photos: list[bytes] = field(default_factory=list)
    _stopped: bool = False

    def stop(self) -> None:
        """Ask nothing more; `run` returns when all answers are there."""
        self._stopped = True

    async def run(self) -> None:
        """Ask until `stop`."""
        async with httpx2.AsyncClient(base_url=f"{self.url}/api/v1", timeout=PATIENCE_SECONDS) as client:
            await asyncio.gather(*(self._look_up(client, number) for number in range(LOOKERS)), self._upload(client))

    async def _look_up(self, client: httpx2.AsyncClient, number: int) -> None:
        while not self._stopped:
            number += 1
            body = {"image_hash": self.known[number % len(self.known)], "user_id": f"user-{number % 40}"}
            await self._note(client.post("/classify/check-cache", json=body))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _upload(self, client: httpx2.AsyncClient) -> None:
        async with asyncio.TaskGroup() as uploads:
            while not self._stopped:
                photo = jpeg_photo(32 + len(self.photos), 48)
                self.photos.append(photo)
                for _ in range(2):
                    uploads.create_task(self._note(client.post("/classify", files={"image": photo})))
                await asyncio.sleep(UPLOAD_EVERY_SECONDS)

    async def _note(self, request: Awaitable[httpx2.Response]) -> None:
        asked_at = time.monotonic()
        try:
            response = await request
        except httpx2.HTTPError:
            self.answers.append(Answer(asked_at, time.monotonic(), 0, "", None))
            return
        request_id = response.headers.get("x-request-id", "")
        if response.status_code == 200:
            assert response.json()["success"], response.text
        self.answers.append(
            Answer(asked_at, time.monotonic(), response.status_code, request_id, response.headers.get("retry-after"))
        )


async def known_photos(url: str, number: int) -> list[str]:
    """Upload `number` photos and return their hashes."""
    photos = [jpeg_photo(16, 16 + each) for each in range(number)]
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=PATIENCE_SECONDS) as client:
        for photo in photos:
            response = await client.post("/classify", files={"image": photo})
            assert response.status_code == 200, response.text
    return [hashlib.sha256(photo).hexdigest() for photo in photos]


def report(load: Load, lost_at: float, moments: list[tuple[str, float]]) -> None:
    """Print what docs/scaling.md quotes."""
    bad = [answer for answer in load.answers if answer.status != 200]
    slowest = max(load.answers, key=lambda answer: answer.answered_at - answer.asked_at)
    times = sorted(answer.answered_at for answer in load.answers if answer.status == 200)
    gap = max((later - earlier, earlier) for earlier, later in pairwise(times))
    print(f"{len(load.answers)} answers, {len(bad)} of them no 200; {len(load.photos)} new photos")
    print(f"longest silence {gap[0]:.2f} s, from {gap[1] - lost_at:.2f} s after the loss")
    print(f"slowest {slowest.answered_at - slowest.asked_at:.2f} s, at {slowest.asked_at - lost_at:.2f} s")
    if bad:
        print(f"not 200 from {bad[0].answered_at - lost_at:.2f} to {bad[-1].answered_at - lost_at:.2f} s")
    for name, moment in moments:
        print(f"{name} {moment - lost_at:.2f} s after the loss")
