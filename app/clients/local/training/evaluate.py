"""Command: measure the local model on labelled photos: `python -m app.clients.local.training.evaluate FOLDER`.

Every photo goes the way of an uploaded one (inspected, prepared, classified by `LocalClient`), one after the other on
one core. Photos that the head was trained on say nothing about its accuracy, only about its speed.
"""

import argparse
import asyncio
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.clients.local.client import LocalClient
from app.clients.local.head import CATEGORY_ORDER, FloatArray
from app.clients.local.network import load_networks
from app.clients.local.training.labelled import LabelledPhoto, find_labelled_photos, prepare
from app.clients.local.training.metrics import report
from app.config.model import ModelSettings


@dataclass(frozen=True, slots=True)
class Measurement:
    """Probabilities of shape (photos, 8), and the milliseconds that preparing and classifying each photo took."""

    probabilities: FloatArray
    prepare_ms: FloatArray
    classify_ms: FloatArray


async def measure(photos: list[LabelledPhoto]) -> Measurement:
    """Classify photos with a client of their own, one after the other."""
    # A client would fetch missing weights and answer nothing until then; this says what to run.
    load_networks()
    client = LocalClient(ModelSettings())
    await client.start()
    try:
        probabilities, prepare_ms, classify_ms = [], [], []
        for photo in photos:
            started = time.perf_counter()
            prepared = await asyncio.to_thread(prepare, photo)
            ready = time.perf_counter()
            result = await client.classify(prepared)
            classify_ms.append((time.perf_counter() - ready) * 1000)
            prepare_ms.append((ready - started) * 1000)
            probabilities.append([result.response["probabilities"][category] for category in CATEGORY_ORDER])
    finally:
        await client.close()
    return Measurement(np.array(probabilities), np.array(prepare_ms), np.array(classify_ms))


def main() -> None:
    """Parse the command line, measure on one core and print the report."""
    parser = argparse.ArgumentParser(description="Measure the local model on a folder of labelled photos.")
    parser.add_argument("folder", type=Path, help="one folder per category")
    photos = find_labelled_photos(parser.parse_args().folder)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured = asyncio.run(measure(photos))
    truth = np.array([CATEGORY_ORDER.index(photo.category) for photo in photos])
    sys.stdout.write(report(truth, measured.probabilities) + "\n\n")
    for name, times in (("prepare", measured.prepare_ms), ("classify", measured.classify_ms)):
        p50, p95 = np.percentile(times, [50, 95])
        sys.stdout.write(f"{name}: p50 {p50:.0f} ms   p95 {p95:.0f} ms\n")
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    sys.stdout.write(f"peak memory of the process: {peak:.0f} MiB\n")


if __name__ == "__main__":
    main()
