"""What the service counts, for `/metrics`: all definitions, and the tally that keeps counting cheap.

A request notes what it has to say in a dictionary of its process, and ten times a second that goes to
prometheus-client: counting there at once would cost a hit 5 µs, and its own file per process makes it so. A figure is
therefore up to a tenth of a second late, and a process that is killed takes what it counted in its last tenth along.

Anything may import this module. With PROMETHEUS_MULTIPROC_DIR (gunicorn_config.py sets it) the figures are those of
all workers. docs/metrics.md describes each.
"""

import asyncio
from bisect import bisect_left
from collections import Counter as Occurrences

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

PREFIX = "image_classifier"
FLUSH_SECONDS = 0.1
# RFC 9110 and PATCH; a client may send any word, which must not become a series.
HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# A hit takes 1 to 5 ms, a model 1 to 30 s, and 110 s is the longest (app/config/settings.py).
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_MODEL_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
# 1000 is the most (app/services/request_log/recorder.py).
_COMMIT_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# To 100 MiB, the largest that can be configured.
_IMAGE_BYTES = tuple(1024 * size for size in (16, 64, 128, 256, 512, 1024, 2048, 5120, 10240, 20480, 51200, 102400))

# Series of their own for the time of each series' birth would be half as many again.
disable_created_metrics()
REGISTRY = CollectorRegistry()


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"{PREFIX}_{name}", text, labels, registry=REGISTRY, buckets=buckets)


def _sum_gauge(name: str, text: str, *labels: str) -> Gauge:
    """A gauge that is the sum over the workers that live."""
    return Gauge(f"{PREFIX}_{name}", text, labels, registry=REGISTRY, multiprocess_mode="livesum")


def _max_gauge(name: str, text: str, *labels: str) -> Gauge:
    """A gauge that is the highest among the workers that live."""
    return Gauge(f"{PREFIX}_{name}", text, labels, registry=REGISTRY, multiprocess_mode="livemax")


BUILD_INFO = _max_gauge("build_info", "Always 1; the version is in the label.", "version")

HTTP_REQUESTS = _counter("http_requests_total", "Requests that were answered.", "method", "route", "status")
HTTP_REQUEST_SECONDS = _histogram(
    "http_request_seconds", "Time to answer a request, in seconds.", _REQUEST_SECONDS, "route", "outcome"
)
REFUSED_REQUESTS = _counter("refused_requests_total", "Refusals because we are full, or asked too often.", "code")
EVENT_STREAMS = _sum_gauge("event_streams", "Open streams of task events: WebSockets and server-sent events.")

CACHE_LOOKUPS = _counter("cache_lookups_total", "Look-ups by the layer that had the entry, or miss.", "layer")

MODEL_CALLS = _counter(
    "model_calls_total", "Calls to a model with their retries, by ok or error code.", "provider", "model", "outcome"
)
MODEL_ANSWERS = _counter(
    "model_answers_total", "New photos that a model has answered, by why it was asked.", "model", "role"
)
MODEL_CALL_SECONDS = _histogram(
    "model_call_seconds", "Time of a call to a model with its retries, in seconds.", _MODEL_SECONDS, "provider"
)
MODEL_TOKENS = _counter("model_tokens_total", "Tokens sent to a model and received.", "provider", "direction")
MODEL_RETRIES = _counter("model_retries_total", "Attempts beyond the first of a call.", "provider")
MODEL_BREAKER_OPEN = _sum_gauge(
    "model_breaker_open", "Workers whose circuit breaker is not closed.", "provider", "model"
)
MODEL_BREAKER_OPEN_UNTIL = _max_gauge(
    "model_breaker_open_until_seconds", "Unix time until which a model is left alone; 0: closed.", "provider", "model"
)
# As they are read back (app/clients/base.py).
BREAKER_OPEN = f"{PREFIX}_model_breaker_open"
BREAKER_OPEN_UNTIL = f"{PREFIX}_model_breaker_open_until_seconds"

LOG_QUEUE_ROWS = _sum_gauge("log_queue_rows", "Rows of the request log that wait to be written.")
LOG_QUEUE_LIMIT_ROWS = _sum_gauge("log_queue_limit_rows", "Rows that may wait before requests are refused.")
SPOOL_ROWS = _sum_gauge("spool_rows", "Rows on disk that wait until the database takes them.")
COMMIT_ROWS = _histogram("commit_rows", "Rows of the request log in one transaction.", _COMMIT_ROWS)
COMMIT_SECONDS = _histogram("commit_seconds", "Time of one such transaction, in seconds.", _COMMIT_SECONDS)
COMMIT_FAILURES = _counter("commit_failures_total", "Such transactions that failed, after their retries.")

DATABASE_CONNECTIONS = _sum_gauge("database_connections", "Connections in the pools.", "state")
DATABASE_CONNECTIONS_LIMIT = _sum_gauge("database_connections_limit", "Connections that the pools may open.")

IMAGES = _counter("images_total", "New photos that were made ready for a model.", "format")
IMAGE_BYTES = _histogram("image_bytes", "Size of new photos, in bytes.", _IMAGE_BYTES)

MONEY_SPENT = _counter("money_spent_total", "What calls of models have cost.", "currency")
MONEY_SAVED = _counter("money_saved_total", "What answers of the cache have saved.", "currency")

SIMILAR_HITS = _counter("similar_hits_total", "Answers that were those of a similar photo.")
MONEY_SAVED_BY_SIMILAR = _counter("money_saved_by_similar_total", "Their share of what was saved.", "currency")

FEEDBACK = _counter("feedback_total", "Votes of users by whether they agree with the entry.", "verdict")
CORRECTIONS = _counter("corrections_total", "Entries that people have changed, by whom and how.", "by", "action")

TASKS = _counter("tasks_total", "Runs of tasks by their end: completed, retried, failed.", "outcome")

BATCH_PHOTOS = _counter(
    "batch_photos_total", "Photos of batches: submitted, and what came of them.", "provider", "outcome"
)

# Of the whole installation: the worker that answers a scrape asks the database, and the last value counts.
TASKS_UNFINISHED = Gauge(
    f"{PREFIX}_tasks_unfinished",
    "Tasks that wait or run, of all instances together.",
    ("status",),
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)

BATCHES_UNFINISHED = Gauge(
    f"{PREFIX}_batches_unfinished",
    "Batches that have not ended, of all instances together.",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)
BATCH_OLDEST_SECONDS = Gauge(
    f"{PREFIX}_batch_oldest_seconds",
    "Age of the oldest batch that has not ended, in seconds; 0: there is none.",
    registry=REGISTRY,
    multiprocess_mode="livemostrecent",
)

PROCESSES = _sum_gauge("processes", "Processes that serve.")
PROCESS_CPU_SECONDS = _counter("process_cpu_seconds_total", "CPU time of these processes, in seconds.")
PROCESS_RESIDENT_BYTES = _sum_gauge("process_resident_bytes", "Memory of these processes (RSS), in bytes.")

LOOKUPS_IN_MEMORY, LOOKUPS_IN_REDIS, LOOKUPS_IN_DATABASE, LOOKUPS_MISSED = (
    CACHE_LOOKUPS.labels(layer) for layer in ("memory", "redis", "database", "miss")
)
FEEDBACK_AGREES, FEEDBACK_DISAGREES = (FEEDBACK.labels(verdict) for verdict in ("agrees", "disagrees"))
CORRECTED_BY_USERS = CORRECTIONS.labels("users", "corrected")
TASKS_COMPLETED, TASKS_RETRIED, TASKS_FAILED = (TASKS.labels(end) for end in ("completed", "retried", "failed"))
CONNECTIONS_IN_USE, CONNECTIONS_IDLE = (DATABASE_CONNECTIONS.labels(state) for state in ("in_use", "idle"))

# Method, route, status, outcome.
_Request = tuple[str, str, int, str]

_counts: dict[Counter, float] = {}
_values: dict[Histogram, list[float]] = {}
_requests: dict[_Request, list[float]] = {}
_request_metrics: dict[_Request, tuple[Counter, Histogram]] = {}
_timer: asyncio.TimerHandle | None = None


def count(counter: Counter, amount: float = 1) -> None:
    """Add to a counter; in the event loop."""
    _counts[counter] = _counts.get(counter, 0) + amount
    if _timer is None:
        _flush_soon()


def observe(histogram: Histogram, value: float) -> None:
    """Add a value to a histogram; in the event loop."""
    _values.setdefault(histogram, []).append(value)
    if _timer is None:
        _flush_soon()


def count_request(method: str, route: str, status: int, outcome: str, seconds: float) -> None:
    """Count an HTTP request that has been answered; in the event loop.

    Args:
        method: as the client sent it.
        route: the template of its path, never the path itself.
        status: of the answer.
        outcome: what became of it in one word, one of few.
        seconds: from its arrival.
    """
    key = method, route, status, outcome
    times = _requests.get(key)
    if times is None:
        _requests[key] = [seconds]
    else:
        times.append(seconds)
    if _timer is None:
        _flush_soon()


def show_model(provider: str, model: str) -> None:
    """Show the series of a model from its start: Prometheus misses the growth of one that is born with an event."""
    MODEL_CALLS.labels(provider, model, "ok")
    MODEL_CALL_SECONDS.labels(provider)
    MODEL_RETRIES.labels(provider)
    for direction in ("input", "output"):
        MODEL_TOKENS.labels(provider, direction)


def flush() -> None:
    """Hand over what was counted; in the event loop, at the end of the service too."""
    global _timer  # noqa: PLW0603 - the tally is the process's, like the metrics
    if _timer is not None:
        _timer.cancel()
        _timer = None
    for key, times in _requests.items():
        requests, seconds = _request_metrics.get(key) or _metrics_of(key)
        requests.inc(len(times))
        _add(seconds, times)
    _requests.clear()
    for counter, amount in _counts.items():
        # A plugin may report less than nothing, which a counter refuses; the counts behind it must not wait.
        if amount > 0:
            counter.inc(amount)
    _counts.clear()
    for histogram, values in _values.items():
        _add(histogram, values)
    _values.clear()


def _flush_soon() -> None:
    global _timer  # noqa: PLW0603 - as above
    _timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, flush)


def _metrics_of(request: _Request) -> tuple[Counter, Histogram]:
    method, route, status, outcome = request
    known_method = method if method in HTTP_METHODS else "other"
    metrics = HTTP_REQUESTS.labels(known_method, route, str(status)), HTTP_REQUEST_SECONDS.labels(route, outcome)
    if known_method == method:
        _request_metrics[request] = metrics
    return metrics


def _add(histogram: Histogram, values: list[float]) -> None:
    """`observe` for many at once: a bucket is written once, not once for each value."""
    bounds, buckets = histogram._upper_bounds, histogram._buckets  # noqa: SLF001 - prometheus-client has no other way
    histogram._sum.inc(sum(values))  # noqa: SLF001
    for bucket, number in Occurrences(bisect_left(bounds, value) for value in values).items():
        buckets[bucket].inc(number)
