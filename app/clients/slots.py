"""How many calls of a model there are at once: each process brings slots, and those of an instance share them all."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from app.clients.errors import ModelBusy
from app.observability.metrics_multiprocess import shared_folder
from app.runtime.shared_semaphore import SemaphoreFullError, SharedSemaphore


def slots_of_instance(provider: str, model: str, places: int) -> SharedSemaphore:
    """Return the slots of a model, shared where the processes of this instance have a folder.

    Args:
        provider: with `model`, what it is known by.
        model: its name.
        places: what this process adds.
    """
    folder = shared_folder()
    if folder is None:
        return SharedSemaphore(places)
    # Names may hold anything.
    name = hashlib.sha256(f"{provider}\n{model}".encode()).hexdigest()[:16]
    return _open_slots(folder / f"model-slots-{name}", places)


@cache
def _open_slots(file: Path, places: int) -> SharedSemaphore:
    return SharedSemaphore(places, file)


@asynccontextmanager
async def slot(slots: SharedSemaphore, wait_seconds: float, *, retry_after_seconds: float) -> AsyncIterator[None]:
    """Hold a slot for the length of the block.

    Args:
        slots: of the model.
        wait_seconds: how long the call may wait for it.
        retry_after_seconds: what a client is told that has waited in vain.

    Raises:
        ModelBusy: there is none in time; at once where that can be known.
    """
    try:
        place = await slots.acquire(wait_seconds)
    except SemaphoreFullError as error:
        raise ModelBusy(retry_after_seconds=max(1.0, error.expected_seconds - wait_seconds)) from None
    except TimeoutError:
        raise ModelBusy(retry_after_seconds=retry_after_seconds) from None
    try:
        yield
    finally:
        slots.release(place)
