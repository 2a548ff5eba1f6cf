"""Traces by OpenTelemetry: one shows a request on its way through cache, model and commit.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; nothing of the SDK is loaded then, and a span costs 0.2 µs. Ours hold
names, numbers and error codes; FastAPI's also the path, the host and the trace that a caller names. Never a photo, a
key or a query.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import trace

from app import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Value = str | int | float | bool

SERVICE_NAME = "image-classifier"
HIDDEN = "hidden"
# A receiver that takes and says nothing must not hold up the end; without a limit it would be 10 s for 512 spans.
LAST_SPANS_TIMEOUT_SECONDS = 5
# By OpenTelemetry's names for HTTP: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
_ROUTE = "http.route"
_QUERY = "url.query"

_NO_SPAN: AbstractContextManager[None] = nullcontext()
_provider: "TracerProvider | None" = None
_tracer: trace.Tracer | None = None


def start_tracing(endpoint: str | None) -> "TracerProvider | None":
    """Send spans from now on to an OTLP receiver over HTTP; once per process, further calls change nothing.

    The SDK's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ...) hold.

    Args:
        endpoint: base address of the receiver, such as http://localhost:4318; None: no traces.

    Returns:
        What makes spans; None without an endpoint.
    """
    global _provider, _tracer  # noqa: PLW0603 - one per process, like the threads that send
    if endpoint is None or _provider is not None:
        return None if endpoint is None else _provider
    # They and protobuf take memory that is not needed without traces.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class HideQuery(SpanProcessor):
        """A query is what a caller has written; FastAPI's spans have it."""

        def on_start(self, span: Span, parent_context: object = None) -> None:
            if span.attributes is not None and _QUERY in span.attributes:
                span.set_attribute(_QUERY, HIDDEN)

        def on_end(self, span: ReadableSpan) -> None:
            """Nothing is left to do."""

    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE_NAME)
    # Not at exit, when it would wait for another 30 s: send_spans is our last word.
    provider = TracerProvider(resource=Resource.create({"service.version": VERSION}), shutdown_on_exit=False)
    provider.add_span_processor(HideQuery())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    _provider = provider
    _tracer = provider.get_tracer(SERVICE_NAME, VERSION)
    return provider


def send_spans() -> None:
    """Send what has not been sent, or give it up; waits a little for the receiver, so call it in a thread.

    For the end of the service.
    """
    if _provider is not None:
        # A thread that the end of the process does not wait for: the SDK knows no limit here.
        sending = threading.Thread(target=_provider.force_flush, daemon=True)
        sending.start()
        sending.join(LAST_SPANS_TIMEOUT_SECONDS)


def span(name: str, **attributes: Value) -> AbstractContextManager[None]:
    """A part of the work, for the length of the block; an error that leaves the block is noted by its code or class."""
    return _NO_SPAN if _tracer is None else _recorded(_tracer, name, attributes)


def describe(**attributes: Value) -> None:
    """Add attributes to the span that this happens in."""
    if _tracer is not None:
        trace.get_current_span().set_attributes(attributes)


def name_request(method: str, route: str) -> None:
    """Name the span of a request that FastAPI's router does not see, as FastAPI would."""
    if _tracer is not None:
        current = trace.get_current_span()
        current.update_name(f"{method} {route}")
        current.set_attribute(_ROUTE, route)


@contextmanager
def _recorded(tracer: trace.Tracer, name: str, attributes: dict[str, Value]) -> Iterator[None]:
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_attribute("error.type", getattr(error, "code", type(error).__name__))
            current.set_status(trace.StatusCode.ERROR)
            raise
