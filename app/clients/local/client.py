"""The model client that runs in this process: no key, no server, no network, one core for a tenth of a second.

Decoding and inference run in threads of its own, one per core, and what exceeds them waits in line; onnxruntime and
Pillow release the interpreter lock, so the event loop stays free.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import onnxruntime
from loguru import logger

from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.calibration import ConfidenceSource, model_key, read_temperature, tempered
from app.clients.errors import (
    ModelConfigurationError,
    ModelError,
    ModelPreparing,
    ModelRejectedRequest,
    ModelUnreachable,
    ModelWeightsMissing,
)
from app.clients.local.describing import describe
from app.clients.local.features import Sight, UnreadablePhoto, look_at, open_photo
from app.clients.local.head import CATEGORY_ORDER, HEAD_PATH, HeadUnusable, load_head
from app.clients.local.network import Networks, WeightsMissing, load_networks
from app.clients.local.provision import Provision
from app.config.model import ModelSettings
from app.language.accept import Language
from app.runtime import background
from app.runtime.cgroups import available_cores

# Four attempts of a task at such a distance last longer than fetching and building do.
PREPARING_RETRY_AFTER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Running:
    networks: Networks
    threads: ThreadPoolExecutor


class LocalClient(ModelClient):
    """EfficientNet-Lite2, CenterFace and picture cues under a linear head; results count only while it is in use."""

    provider = "local"
    default_model = "local/efficientnet-lite2"
    is_paid = False
    takes_language = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        try:
            self._head = load_head(settings.local_head or HEAD_PATH)
        except HeadUnusable as error:
            raise ModelConfigurationError(f"LOCAL_HEAD: {error}" if settings.local_head else str(error)) from None
        # LLM_MODEL may be left over from another provider. Entries of two heads are told apart by the name.
        self.model = f"{self.default_model}/{self._head.version}"
        self._temperature = read_temperature(settings.calibration_file, model_key(self.provider, self.model))
        self._running: _Running | None = None
        self._provision = Provision(on_change=self._forget_probe)
        self._providing: asyncio.Task[None] | None = None

    async def _start(self) -> None:
        if self._running is not None or self._providing is not None:
            return
        try:
            await self._run(await asyncio.to_thread(load_networks))
        except WeightsMissing:
            self._providing = background.spawn(self._provide(), name="local-model")

    async def _provide(self) -> None:
        with background.OutageLog("the local model cannot be loaded", recovered="").guard():
            await self._run(await self._provision.networks())
            self._forget_probe()
            logger.info("the local model is ready")

    def _forget_probe(self) -> None:
        # So that /health says what has changed, and not what the last probe found.
        self._probe_outcome = None

    async def _run(self, networks: Networks) -> None:
        threads = ThreadPoolExecutor(max_workers=available_cores(), thread_name_prefix="local-model")
        self._running = _Running(networks, threads)

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        running = self._require_running()
        loop = asyncio.get_running_loop()
        try:
            # A caller who gives up takes a photo that still waits out of the line; one that is being looked at is
            # finished and forgotten.
            sight = await loop.run_in_executor(running.threads, _look, running.networks, photo)
        except UnreadablePhoto as error:
            raise ModelRejectedRequest("The local model cannot decode the prepared photo.") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The caller was not cancelled: the client was closed while the photo waited in line.
            raise ModelUnreachable("The local model is shutting down.") from None
        return self._result(sight, photo.language)

    async def _probe(self) -> None:
        self._require_running()

    async def _close(self) -> None:
        if self._providing is not None:
            await background.cancel(self._providing)
        running, self._running = self._running, None
        if running is not None:
            await asyncio.to_thread(running.threads.shutdown, cancel_futures=True)

    def _require_running(self) -> _Running:
        if self._running is None:
            raise self._why_not_running()
        return self._running

    def _why_not_running(self) -> ModelError:
        if self._providing is None:
            return ModelUnreachable("The local model has not been started.")
        if self._provision.has_failed:
            return ModelWeightsMissing()
        return ModelPreparing(retry_after_seconds=PREPARING_RETRY_AFTER_SECONDS)

    def _result(self, sight: Sight, language: Language) -> ModelResult:
        [row] = self._head.probabilities(sight.features[None])
        probabilities = {category: round(float(p), 4) for category, p in zip(CATEGORY_ORDER, row, strict=True)}
        category = max(probabilities, key=probabilities.__getitem__)
        confidence, source = probabilities[category], ConfidenceSource.PROBABILITIES
        if self._temperature is not None:
            confidence, source = tempered(probabilities, self._temperature)[category], ConfidenceSource.CALIBRATED
        return ModelResult(
            category=category,
            confidence=confidence,
            description=describe(category, confidence, sight, language),
            response={
                "model": self.model,
                "runtime": f"onnxruntime {onnxruntime.__version__}",
                "confidence_source": source.value,
                "probabilities": {key.value: value for key, value in probabilities.items()},
            },
            # Both are there already, so that no request has to have the photo looked at again for the other one.
            translation=None if self.settings.fixed_language else describe(category, confidence, sight, language.other),
        )


def _look(networks: Networks, photo: PreparedPhoto) -> Sight:
    return look_at(networks, open_photo(photo.jpeg))
