"""A model that is paid: the fake model server of the tests, which keeps an account of its answers by picture.

It is paid for what a provider would charge: a valid answer that was sent to its end to a client that still waited.
Errors, answers that broke off, and answers that came after the client had gone cost nothing.
"""

import hashlib
import json
import threading
from collections import Counter
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.model_replies import CATEGORY, Reply
from tests.fakes.model_server import FakeModelServer
from tests.fakes.model_wire import request_image

# A quick hosted model; calls are under way whenever a fault comes.
ANSWER_SECONDS = 0.15


class PaidModel:
    """The server and its account; what it says may be changed while it runs.

    `calls` are all that came, `answered` how often each picture (by its SHA-256) got an answer that is paid for.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.answered: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._fake = FakeModelServer(delay_seconds=ANSWER_SECONDS)
        self._stack = ExitStack()
        self._port = 0

    @property
    def url(self) -> str:
        return self._fake.openai_url

    @property
    def api_key(self) -> str:
        return str(self._fake.api_key)

    def start(self) -> None:
        """Take connections, on the same port as before."""
        self._fake.url = self._stack.enter_context(running_http_server(self._handle, port=self._port))
        self._port = urlsplit(self._fake.url).port or 0

    def stop(self) -> None:
        """Refuse all connections, and cut those that are open."""
        self._stack.close()

    def say(self, reply: Reply) -> None:
        """Answer every call so from now on."""
        self._fake.default = reply

    def change_key(self, key: str) -> None:
        """Take no other key than this one."""
        self._fake.api_key = key

    async def _handle(self, request: HTTPRequest) -> HTTPResponse:
        response = await self._fake.handle(request)
        if request.method != "POST":
            return response
        self.calls += 1
        picture = request_image(json.loads(request.body))
        if picture is None or response.status != 200 or CATEGORY.encode() not in response.body:
            return response
        image_hash = hashlib.sha256(picture).hexdigest()

        def count() -> None:
            with self._lock:
                self.answered[image_hash] += 1

        return HTTPResponse(response.status, response.body, response.headers, response.sent_bytes, count)
