import itertools

import pytest

from app.clients.breaker import BreakerState, CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=3, open_seconds=30, clock=clock)


PICTURES = itertools.count()


def fail(breaker: CircuitBreaker, times: int) -> None:
    """Let so many pictures fail, each another one."""
    for _ in range(times):
        assert breaker.try_acquire()
        breaker.record_failure(next(PICTURES))


def succeed(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.try_acquire()
        breaker.record_success(next(PICTURES))


def test_failures_of_different_pictures_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.try_acquire()
    assert breaker.seconds_until_trial() == 30


def test_one_picture_that_always_fails_does_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(50):
        assert breaker.try_acquire()
        breaker.record_failure("strange")
    fail(breaker, 1)
    assert breaker.state is BreakerState.CLOSED


def test_a_small_share_does_not_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        succeed(breaker, 2)
        fail(breaker, 1)
    assert breaker.state is BreakerState.CLOSED


def test_half_of_the_pictures_open_it(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        succeed(breaker, 1)
        fail(breaker, 1)
    assert breaker.seconds_until_trial() == 0
    succeed(breaker, 1)
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_many_good_pictures_hide_an_outage_for_a_few_calls_only(breaker: CircuitBreaker) -> None:
    succeed(breaker, 500)
    fail(breaker, 10)
    assert breaker.state is BreakerState.OPEN


def test_what_was_long_ago_does_not_count(breaker: CircuitBreaker, clock: Clock) -> None:
    succeed(breaker, 20)
    fail(breaker, 2)
    clock.now += 121
    fail(breaker, 2)
    assert breaker.seconds_until_trial() == 0
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_a_picture_that_works_later_has_not_failed(breaker: CircuitBreaker) -> None:
    for picture in range(10):
        breaker.record_failure(picture % 2)
        breaker.record_success(picture % 2)
    assert breaker.state is BreakerState.CLOSED


def test_the_provider_says_how_long(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 2)
    breaker.record_failure("last", open_seconds=2)
    assert breaker.seconds_until_trial() == 2
    clock.now += 2
    assert breaker.state is BreakerState.HALF_OPEN


def test_calls_that_were_under_way_do_not_keep_it_open(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 20
    breaker.record_failure("late")
    assert breaker.seconds_until_trial() == 10


def test_one_trial_at_a_time_after_the_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.try_acquire()
    assert not breaker.try_acquire()


def test_trial_that_succeeds_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.try_acquire()
    breaker.record_success("trial")
    assert breaker.state is BreakerState.CLOSED
    assert breaker.seconds_until_trial() == 0
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_trial_that_fails_opens_it_again_at_once(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert breaker.seconds_until_trial() == 30


def test_trial_that_says_nothing_lets_the_next_one_try(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.try_acquire()
    breaker.record_nothing()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.try_acquire()
