"""The model client that runs in this process: no key, no server, no network, one core for a tenth of a second.

Decoding and inference run in threads of its own, one per core, and what exceeds them waits in line; onnxruntime and
Pillow release the interpreter lock, so the event loop stays free.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import onnxruntime
from loguru import logger

from app.categories import CATEGORY_TEXTS, Category
from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.calibration import ConfidenceSource, model_key, read_temperature, tempered
from app.clients.errors import (
    ModelError,
    ModelPreparing,
    ModelRejectedRequest,
    ModelUnreachable,
    ModelWeightsMissing,
)
from app.clients.local.features import UnreadablePhoto, extract_features, open_photo
from app.clients.local.head import CATEGORY_ORDER, HEAD_VERSION, Head, load_head
from app.clients.local.network import Networks, WeightsMissing, load_networks
from app.clients.local.provision import Provision
from app.config.model import DescriptionLanguage, ModelSettings
from app.runtime import background
from app.runtime.cgroups import available_cores

SURE = 0.8
"""From this confidence on, at least 95 % of the answers are right, as training measures across sources."""
# Four attempts of a task at such a distance last longer than fetching and building do.
PREPARING_RETRY_AFTER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Running:
    networks: Networks
    head: Head
    threads: ThreadPoolExecutor


class LocalClient(ModelClient):
    """EfficientNet-Lite2, CenterFace and picture cues under a linear head; results count only while it is in use."""

    provider = "local"
    default_model = f"local/efficientnet-lite2/{HEAD_VERSION}"
    is_paid = False

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        # LLM_MODEL may be left over from another provider; there is only one local model.
        self.model = self.default_model
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
        head = await asyncio.to_thread(load_head)
        threads = ThreadPoolExecutor(max_workers=available_cores(), thread_name_prefix="local-model")
        self._running = _Running(networks, head, threads)

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        running = self._require_running()
        loop = asyncio.get_running_loop()
        try:
            # A caller who gives up takes a photo that still waits out of the line; one that is being looked at is
            # finished and forgotten.
            probabilities = await loop.run_in_executor(running.threads, _look, running, photo)
        except UnreadablePhoto as error:
            raise ModelRejectedRequest("The local model cannot decode the prepared photo.") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The caller was not cancelled: the client was closed while the photo waited in line.
            raise ModelUnreachable("The local model is shutting down.") from None
        return self._result(probabilities)

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

    def _result(self, probabilities: dict[Category, float]) -> ModelResult:
        category = max(probabilities, key=probabilities.__getitem__)
        confidence, source = probabilities[category], ConfidenceSource.PROBABILITIES
        if self._temperature is not None:
            confidence, source = tempered(probabilities, self._temperature)[category], ConfidenceSource.CALIBRATED
        return ModelResult(
            category=category,
            confidence=confidence,
            description=describe(category, confidence, self.settings.description_language),
            response={
                "model": self.model,
                "runtime": f"onnxruntime {onnxruntime.__version__}",
                "confidence_source": source.value,
                "probabilities": {key.value: value for key, value in probabilities.items()},
            },
        )


def describe(category: Category, confidence: float, language: DescriptionLanguage) -> str:
    """Say in one sentence what the local model can honestly say: the category, and whether it is sure."""
    text = CATEGORY_TEXTS[category]
    match language, confidence >= SURE:
        case DescriptionLanguage.CHINESE, True:
            return f"本地模型认为这张图片属于“{text.chinese}”。"
        case DescriptionLanguage.CHINESE, False:
            return f"本地模型不太确定，这张图片可能属于“{text.chinese}”。"
        case _, True:
            return f'The local model takes this picture for "{text.english}".'
        case _:
            return f'The local model is not sure; this picture may be "{text.english}".'


def _look(running: _Running, photo: PreparedPhoto) -> dict[Category, float]:
    features = extract_features(running.networks, open_photo(photo.jpeg))
    probabilities = running.head.probabilities(features[None])[0]
    return {category: round(float(p), 4) for category, p in zip(CATEGORY_ORDER, probabilities, strict=True)}
