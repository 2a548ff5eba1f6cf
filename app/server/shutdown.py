"""How the application learns that its server shuts down. Streams have to end then: the server waits for them.

ASGI tells an application only after the last answer. So we listen to the signals that end a server, before it does;
and our own server announces it, which shuts down without a signal when it is recycled.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_callbacks: list[Callable[[], None]] = []


def announce_shutdown() -> None:
    """Call all registered callbacks, in the event loop."""
    for callback in _callbacks:
        callback()


@contextlib.contextmanager
def on_shutdown(callback: Callable[[], None]) -> Iterator[None]:
    """Have `callback` called in the running event loop when the server shuts down, for the length of the block."""
    _callbacks.append(callback)
    try:
        with _on_signal(callback):
            yield
    finally:
        _callbacks.remove(callback)


@contextlib.contextmanager
def _on_signal(callback: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Python's signals are the main thread's.
        yield
        return
    loop = asyncio.get_running_loop()
    is_over = False
    ours: dict[signal.Signals, tuple[object, object]] = {}
    for number in SIGNALS:
        previous = signal.getsignal(number)
        if not callable(previous):
            # No server handles it, or one that does so in another way.
            continue

        def handle(received: int, frame: FrameType | None, previous: Callable[..., object] = previous) -> None:
            if not is_over:
                loop.call_soon_threadsafe(callback)
            previous(received, frame)

        signal.signal(number, handle)
        ours[number] = (handle, previous)
    try:
        yield
    finally:
        is_over = True
        for number, (handler, before) in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before)  # type: ignore[arg-type]  # what getsignal returned
