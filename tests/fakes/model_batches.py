"""The batch APIs of both providers, for the fake model server: what is uploaded, created, looked at and deleted.

A photo's answer is that of the server's script, as for a direct call. A batch ends when a test says so.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from tests.fakes.http_server import HTTPRequest, HTTPResponse
from tests.fakes.model_replies import Reply, failure
from tests.fakes.model_wire import anthropic_body, anthropic_complaints, openai_body, openai_complaints

# What the real API takes.
_FILE_KEPT_SECONDS = range(3600, 2592000 + 1)


@dataclass(slots=True)
class FakeBatch:
    """One batch: its requests by custom id, and its state in OpenAI's words."""

    id: str
    requests: dict[str, dict[str, Any]]
    metadata: dict[str, str] = field(default_factory=dict)
    input_file_id: str = ""
    status: str = "in_progress"
    results: dict[str, Reply] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class FakeBatches:
    """All batches and files of a server.

    `end_by_themselves`: a batch has ended when it is first looked at. `unanswered` creations get no response, though
    the batch is there, and `delay_seconds` comes before each answer from the first batch on. `has_api` is False for a
    proxy that knows no batches. With `fails_with`, a status, all that is asked about batches is answered so, and
    `failures` counts that; uploads of files are as ever.
    """

    next_reply: Callable[[], Reply]
    end_by_themselves: bool = False
    unanswered: int = 0
    delay_seconds: float = 0.0
    has_api: bool = True
    fails_with: int | None = None
    failures: int = 0
    made: list[FakeBatch] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def finish(self, batch: FakeBatch | None = None, *, answered: int | None = None, status: str = "completed") -> None:
        """End a batch (all that run), of whose photos so many are answered, all if None."""
        for each in [batch] if batch else [made for made in self.made if made.status in {"in_progress", "cancelling"}]:
            each.status = status
            wanted = list(each.requests)[:answered]
            each.results = {custom_id: self.next_reply() for custom_id in wanted}

    def handle(self, request: HTTPRequest, *, anthropic: bool) -> HTTPResponse | None:
        """Answer a request that is about batches or files; None: it is about something else."""
        path = request.path.removeprefix("/v1/")
        is_ours = path.startswith("messages/batches") if anthropic else path.split("/")[0] in {"files", "batches"}
        if not is_ours:
            return None
        if not self.has_api:
            return _json(_error(404, "Unknown path.", anthropic=anthropic), 404)
        if self.fails_with is not None and "batches" in path:
            self.failures += 1
            return _json(_error(self.fails_with, "No.", anthropic=anthropic), self.fails_with)
        if anthropic:
            return self._anthropic(request, path.removeprefix("messages/batches").strip("/"))
        kind, _, name = path.partition("/")
        return self._files(request, name) if kind == "files" else self._openai(request, name)

    def _files(self, request: HTTPRequest, name: str) -> HTTPResponse:
        if request.method == "POST":
            fields = _form(request)
            if fields["purpose"] != b"batch" or int(fields["expires_after[seconds]"]) not in _FILE_KEPT_SECONDS:
                self.violations.append("the file has no purpose, or no time after which it goes")
            file_id = f"file-{len(self.files)}"
            self.files[file_id] = fields["file"]
            return _json({"id": file_id, "object": "file", "bytes": len(fields["file"])})
        file_id, _, part = name.partition("/")
        if file_id not in self.files:
            return _json(_error(404, "No such File object", anthropic=False), 404)
        if request.method == "DELETE":
            del self.files[file_id]
            self.deleted.append(file_id)
            return _json({"id": file_id, "deleted": True})
        return HTTPResponse(body=self.files[file_id]) if part == "content" else _json({"id": file_id})

    def _openai(self, request: HTTPRequest, name: str) -> HTTPResponse:
        if request.method == "POST" and not name:
            body = json.loads(request.body)
            lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
            for line in lines:
                self.violations += openai_complaints(line["body"], set())
                if (line["method"], line["url"]) != ("POST", body["endpoint"]):
                    self.violations.append("a line asks another address than the batch")
            return self._create(
                {line["custom_id"]: line["body"] for line in lines},
                self._openai_body,
                metadata=body["metadata"],
                input_file_id=body["input_file_id"],
            )
        if not name:
            return _json({"object": "list", "data": [*map(self._openai_body, reversed(self.made))], "has_more": False})
        return self._about(request, name, self._openai_body, anthropic=False)

    def _anthropic(self, request: HTTPRequest, name: str) -> HTTPResponse:
        if request.method == "POST" and not name:
            requests = {each["custom_id"]: each["params"] for each in json.loads(request.body)["requests"]}
            for params in requests.values():
                self.violations += anthropic_complaints(params, set())
            return self._create(requests, self._anthropic_body)
        if not name:
            return _json({"data": [*map(self._anthropic_body, reversed(self.made))], "has_more": False})
        batch_id, _, part = name.partition("/")
        if part == "results":
            batch = next(each for each in self.made if each.id == batch_id)
            return HTTPResponse(body="\n".join(map(json.dumps, _anthropic_lines(batch))).encode())
        return self._about(request, name, self._anthropic_body, anthropic=True)

    def _create(
        self, requests: dict[str, dict[str, Any]], body_of: Callable[[FakeBatch], dict[str, Any]], **known: Any
    ) -> HTTPResponse:
        batch = FakeBatch(f"batch_{len(self.made)}", requests, **known)
        self.made.append(batch)
        if self.unanswered:
            self.unanswered -= 1
            return HTTPResponse(sent_bytes=0)
        return _json(body_of(batch))

    def _about(
        self, request: HTTPRequest, name: str, body_of: Callable[[FakeBatch], dict[str, Any]], *, anthropic: bool
    ) -> HTTPResponse:
        batch_id, _, part = name.partition("/")
        batch = next((each for each in self.made if each.id == batch_id), None)
        if batch is None:
            return _json(_error(404, "No such batch", anthropic=anthropic), 404)
        if request.method == "DELETE":
            self.deleted.append(batch_id)
        elif part == "cancel":
            batch.status = "cancelling"
        elif self.end_by_themselves and batch.status == "in_progress":
            self.finish(batch)
        return _json(body_of(batch))

    def _openai_body(self, batch: FakeBatch) -> dict[str, Any]:
        files: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}
        if batch.status in {"completed", "cancelled", "expired"}:
            lines = _openai_lines(batch)
            for name, some in (
                ("output_file_id", [line for line in lines if line["error"] is None]),
                ("error_file_id", [line for line in lines if line["error"] is not None]),
            ):
                if some:
                    files[name] = file_id = f"{batch.id}-{name}"
                    if file_id not in self.deleted:
                        self.files[file_id] = "\n".join(map(json.dumps, some)).encode()
        return {
            "id": batch.id,
            "object": "batch",
            "status": batch.status,
            "created_at": int(batch.created_at.timestamp()),
            "metadata": batch.metadata,
            "input_file_id": batch.input_file_id,
            "errors": None,
            **files,
        }

    def _anthropic_body(self, batch: FakeBatch) -> dict[str, Any]:
        words = {"in_progress": "in_progress", "cancelling": "canceling"}
        counts = dict.fromkeys(("canceled", "errored", "expired", "processing", "succeeded"), 0)
        counts["processing" if batch.status in words else "succeeded"] = len(batch.requests)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": words.get(batch.status, "ended"),
            "created_at": batch.created_at.isoformat(),
            "request_counts": counts,
            # The key goes nowhere but to the configured address.
            "results_url": "http://127.0.0.1:9/elsewhere",
        }


def _openai_lines(batch: FakeBatch) -> list[dict[str, Any]]:
    lines = []
    for custom_id, body in batch.requests.items():
        reply = batch.results.get(custom_id)
        response, error = None, None
        if reply is None:
            error = {"code": "batch_expired", "message": "This request could not be executed in time."}
        else:
            answer = openai_body(reply, body["model"])
            response = {"status_code": reply.status, "request_id": "r", "body": answer}
            error = {"code": "failed", "message": "No."} if reply.status >= 400 else None
        lines.append({"id": f"line-{custom_id}", "custom_id": custom_id, "response": response, "error": error})
    # In no order that the requests had.
    return lines[::-1]


def _anthropic_lines(batch: FakeBatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for custom_id, params in batch.requests.items():
        reply = batch.results.get(custom_id)
        if reply is None:
            result: dict[str, Any] = {"type": "canceled" if batch.status == "cancelled" else "expired"}
        elif reply.status >= 400:
            result = {"type": "errored", "error": anthropic_body(reply, params["model"])}
        else:
            result = {"type": "succeeded", "message": anthropic_body(reply, params["model"])}
        lines.append({"custom_id": custom_id, "result": result})
    return lines[::-1]


def _form(request: HTTPRequest) -> dict[str, bytes]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + request.body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]  # of a part it is bytes
        for part in message.iter_parts()
    }


def _error(status: int, message: str, *, anthropic: bool) -> dict[str, Any]:
    reply = failure(status, message=message)
    return anthropic_body(reply, "") if anthropic else openai_body(reply, "")


def _json(body: dict[str, Any], status: int = 200) -> HTTPResponse:
    return HTTPResponse(status, json.dumps(body).encode())
