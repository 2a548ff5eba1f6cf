"""What can happen to Redis, to the model, and to the service itself."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.faults.site import Fault, Site
from tests.fakes.model_replies import Reply, answer, classification, dropped_in_body, failure

# Longer than LLM_TIMEOUT (site.py).
SLOW_MODEL_SECONDS = 5.0
MODEL_FAULT_SECONDS = 8.0
# An account without money, in OpenAI's words: https://platform.openai.com/docs/guides/error-codes
OUT_OF_MONEY = failure(429, "insufficient_quota", message="You exceeded your current quota, please check your plan.")
RATE_LIMITED = failure(429, "rate_limit_exceeded", message="Rate limit reached.", retry_after="1")
GARBAGE = answer("I see a lovely picture!")
# By then the first one has a successor, which has all the requests until the second one has.
BETWEEN_DEATHS_SECONDS = 3.0
CROWD = 150
# Places at the model of each worker: both together answer some 26 photos a second, so that the crowd would wait longer
# than LLM_TIMEOUT.
OVERLOADED_PLACES = "2"
# Every worker is replaced after one to three seconds of this load.
RECYCLING = ("--max-requests", "150", "--max-requests-jitter", "100")


@contextmanager
def redis_lost(site: Site) -> Iterator[None]:
    """Redis dies, and comes back empty."""
    if site.redis is not None:
        site.redis.send_signal(signal.SIGKILL)
    yield
    site.start_redis()


@contextmanager
def model_dead(site: Site) -> Iterator[None]:
    """The model takes no connections."""
    site.model.stop()
    yield
    site.model.start()


@contextmanager
def wrong_key(site: Site) -> Iterator[None]:
    """The model does not know our key any more."""
    key = site.model.api_key
    site.model.change_key("another-key")
    yield
    site.model.change_key(key)


def model_says(reply: Reply) -> Callable[[Site], AbstractContextManager[None]]:
    """Return the fault of a model that answers every call so."""

    @contextmanager
    def happens(site: Site) -> Iterator[None]:
        site.model.say(reply)
        yield
        site.model.say(classification())

    return happens


@contextmanager
def worker_killed(site: Site) -> Iterator[None]:
    """Both workers die in the midst of their requests, one after the other."""
    for number, worker in enumerate(site.workers()):
        time.sleep(number * BETWEEN_DEATHS_SECONDS)
        os.kill(worker, signal.SIGKILL)
    yield


@contextmanager
def restarted(site: Site) -> Iterator[None]:
    """The service is told to end, and is started when it has ended: a restart of its unit."""
    site.signal_service(signal.SIGTERM)
    site.await_end_of_service()
    site.start_service()
    yield


@contextmanager
def reloaded(site: Site) -> Iterator[None]:
    """The service is told to load new code and settings."""
    site.signal_service(signal.SIGHUP)
    yield


@contextmanager
def recycling(site: Site) -> Iterator[None]:
    """Nothing, but that every worker has been replaced all the time."""
    yield


@contextmanager
def overload(site: Site) -> Iterator[None]:
    """A crowd of CROWD clients uploads new photos without a pause."""
    site.load.crowd = CROWD
    yield
    site.load.crowd = 0


FAULTS = [
    Fault("redis-lost", redis_lost, with_redis=True),
    Fault("model-slow", model_says(classification().delayed(SLOW_MODEL_SECONDS)), seconds=MODEL_FAULT_SECONDS),
    Fault("model-dead", model_dead, seconds=MODEL_FAULT_SECONDS),
    Fault("model-429", model_says(RATE_LIMITED), seconds=MODEL_FAULT_SECONDS),
    Fault("model-garbage", model_says(GARBAGE), seconds=MODEL_FAULT_SECONDS),
    Fault("model-half-answer", model_says(dropped_in_body()), seconds=MODEL_FAULT_SECONDS),
    Fault("model-wrong-key", wrong_key, seconds=MODEL_FAULT_SECONDS),
    Fault("model-out-of-money", model_says(OUT_OF_MONEY), seconds=MODEL_FAULT_SECONDS),
    Fault("worker-killed", worker_killed),
    Fault("sigterm", restarted, seconds=0),
    Fault("sighup", reloaded, seconds=0),
    Fault("recycling", recycling, gunicorn_options=RECYCLING),
    Fault("overload", overload, settings={"LLM_MAX_CONCURRENCY": OVERLOADED_PLACES}),
]
