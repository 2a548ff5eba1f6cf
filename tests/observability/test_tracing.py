"""Traces as a receiver gets them: one for each request, through cache, model and commit, without a user's words."""

import gzip
import hashlib
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.config.logs import LogSettings
from app.config.settings import PROJECT_ROOT
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.images import jpeg_photo
from tests.fakes.model_replies import failure
from tests.fakes.model_server import FakeModelServer
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.servers.waiting import wait_until
from tests.test_worker import Service, wait_for_workers, worker

CHECK = "/api/v1/classify/check-cache"
USER = "a-user-whom-no-trace-names"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Receiver:
    """What came by OTLP over HTTP."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""
    service: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: HTTPRequest) -> HTTPResponse:
        assert (request.method, request.path) == ("POST", "/v1/traces")
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.service = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return HTTPResponse(200, b"", {"content-type": "application/x-protobuf"})

    def tree(self, root: Span) -> list[str]:
        """The names of a span and of those below it, indented, in the order of their beginnings."""
        below = sorted((span for span in self.spans if span.parent_span_id == root.span_id), key=_began)
        return [root.name, *(f"  {line}" for child in below for line in self.tree(child))]

    def requests(self) -> list[Span]:
        return sorted((span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER), key=_began)


def _began(span: Span) -> int:
    return span.start_time_unix_nano


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with running_http_server(receiver.handle) as url:
        receiver.url = url
        yield receiver


@contextmanager
def traced(environment: dict[str, str], receiver: Receiver) -> Iterator[tuple[RunningProcess, str]]:
    port = free_port()
    Path(environment["TMPDIR"]).mkdir(exist_ok=True)
    with start_process(
        [sys.executable, "-m", "app"],
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
        cwd=PROJECT_ROOT,
    ) as process:
        yield process, f"http://127.0.0.1:{port}"


def end(process: RunningProcess) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in {0, 128 + signal.SIGTERM}
    assert "Traceback" not in process.output()


def test_one_trace_shows_cache_model_and_commit(
    environment: dict[str, str], receiver: Receiver, model_server: FakeModelServer
) -> None:
    photo = jpeg_photo(340, 200)
    image_hash = hashlib.sha256(photo).hexdigest()
    with traced(environment, receiver) as (process, url), httpx2.Client(base_url=url, timeout=120) as client:
        parent = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-User-ID": USER}
        answers = [
            client.post(CHECK, json={"image_hash": image_hash, "user_id": USER}),
            client.post("/api/v1/classify", files={"image": (f"{USER}.jpg", photo)}, headers=parent),
            client.post(CHECK, json={"image_hash": image_hash, "user_id": USER}),
            client.post(CHECK, json={"image_hash": image_hash}, headers={"Origin": "https://app.example"}),
            client.get("/api/v1/stats/today", params={"token": "secret-token"}),
        ]
        for path in ("/metrics", "/api/v1/health/live"):
            assert client.get(path).status_code == 200
        end(process)
    assert receiver.service["service.name"] == "image-classifier"
    checked = [f"POST {CHECK}", "  cache.look_up"]
    assert [receiver.tree(request) for request in receiver.requests()] == [
        checked,
        [
            "POST /api/v1/classify",
            "  cache.look_up",
            "  cache.look_up_and_lease",
            "  photo.prepare",
            "  model.call",
            "    model.attempt",
            "  cache.save",
            "  commit",
        ],
        [*checked, "  commit"],
        [*checked, "  commit"],
        ["GET /api/v1/stats/today"],
    ]
    upload = receiver.requests()[1]
    assert (upload.trace_id.hex(), upload.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert len({request.trace_id for request in receiver.requests()}) == len(answers)
    for request, answer in zip(receiver.requests(), answers, strict=True):
        assert attributes(request)["request_id"] == answer.headers["X-Request-ID"]
        assert attributes(request)["http.route"] == request.name.partition(" ")[2]
    [call] = [span for span in receiver.spans if span.name == "model.call"]
    assert attributes(call) == {"provider": "custom", "model": "test-vision"}
    for secret in (USER, "secret-token", str(model_server.api_key), environment["LLM_BASE_URL"]):
        assert secret.encode() not in receiver.raw
    assert photo[100:124] not in receiver.raw


def test_a_task_is_a_trace_of_its_own_in_the_worker_that_runs_it(
    environment: dict[str, str], receiver: Receiver, model_server: FakeModelServer
) -> None:
    outside = {**environment, "TASK_WORKERS": "outside", "WEB_CONCURRENCY": "1"}
    model_server.script(failure(401))
    with traced(outside, receiver) as (process, url), httpx2.Client(base_url=url, timeout=120) as client:
        service = Service(client)
        with worker({**outside, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}) as worker_process:
            wait_for_workers(worker_process)
            task_id = service.ask(service.upload(343))
            wait_until(lambda: service.task(task_id)["status"] == "completed", "the task")
            again_id = service.ask(service.upload(343))
            wait_until(lambda: service.task(again_id)["status"] == "completed", "the next task of this picture")
            end(worker_process)
        end(process)
    tasks = sorted((span for span in receiver.spans if span.name == "task"), key=_began)
    asked = ["  cache.look_up", "  cache.look_up_and_lease", "  photo.prepare", "  model.call"]
    assert [receiver.tree(task) for task in tasks] == [
        ["task", *asked, "    model.attempt"],
        ["task", *asked, "    model.attempt", "  commit", "  result.save"],
        ["task", "  cache.look_up", "  commit", "  result.save"],
    ]
    assert [attributes(task)["task_id"] for task in tasks] == [task_id, task_id, again_id]
    assert [attributes(task)["attempt"] for task in tasks] == ["1", "2", "1"]
    assert [attributes(task).get("error.type") for task in tasks] == ["model_authentication_failed", None, None]
    asking = [attributes(each).get("task_id") for each in receiver.requests() if each.name.endswith("/inference/async")]
    assert asking == [task_id, again_id]
    assert all(not task.parent_span_id for task in tasks)
    assert len({task.trace_id for task in tasks}) == len(tasks)


def test_an_error_stands_in_the_span_that_it_leaves(
    environment: dict[str, str], receiver: Receiver, model_server: FakeModelServer
) -> None:
    model_server.script(failure(401))
    with traced(environment, receiver) as (process, url):
        answer = httpx2.post(f"{url}/api/v1/classify", files={"image": jpeg_photo(341, 200)}, timeout=120)
        assert answer.status_code == 503
        end(process)
    failed = {
        span.name: attributes(span)["error.type"]
        for span in receiver.spans
        if span.status.code == Status.STATUS_CODE_ERROR
    }
    assert failed.pop("POST /api/v1/classify")
    assert set(failed) == {"model.call", "model.attempt"}
    assert set(failed.values()) == {"model_authentication_failed"}
    assert all(not span.events for span in receiver.spans)


def test_without_a_receiver_the_service_works_and_says_what_is_missing(environment: dict[str, str]) -> None:
    nowhere = Receiver(url=f"http://127.0.0.1:{free_port()}")
    with traced({**environment, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, nowhere) as (process, url):
        answer = httpx2.post(f"{url}/api/v1/classify", files={"image": jpeg_photo(342, 200)}, timeout=120)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in {0, 128 + signal.SIGTERM}
        assert "opentelemetry" in process.output()


def test_a_receiver_that_takes_and_says_nothing_holds_up_no_end(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        receiver = Receiver(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with traced({**environment, "OTEL_EXPORTER_OTLP_TIMEOUT": "100"}, receiver) as (process, url):
            assert httpx2.get(f"{url}/api/v1/stats/today", timeout=120).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) in {0, 128 + signal.SIGTERM}


@pytest.mark.parametrize("wrong", ["localhost:4318", "ftp://localhost", "http://"])
def test_an_address_that_cannot_be_one_stops_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match="not an address such as"):
        LogSettings.model_validate({"OTEL_EXPORTER_OTLP_ENDPOINT": wrong})
