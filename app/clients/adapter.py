"""A class with `load_model`, `preprocess`, `predict` and `postprocess` becomes a model client, without knowing of us.

It is made and loaded once, and works in threads of its own: one, unless it says that it may run in more. What it
returns is checked as any model's answer is. A label that neither is a category nor is mapped to one is an error.
"""

import asyncio
import io
import numbers
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol, cast

from loguru import logger
from PIL import Image

from app.categories import Category
from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.errors import ModelAnswerInvalid, ModelError, ModelRejectedRequest, ModelUnreachable
from app.clients.llm.parsing import DESCRIPTION_MAX_CHARACTERS, clean_text
from app.config.model import ModelSettings

METHODS = ("load_model", "preprocess", "predict", "postprocess")
MODEL_MAX_LENGTH = 100
MAX_THREADS = 64
# A label in the log and in the cache's model_response; longer ones are no labels.
_LABEL_MAX_CHARACTERS = 100


class ModelInterface(Protocol):
    """What a class has to have; there is no need to inherit from this one.

    It may say more by class attributes: `CATEGORIES` maps its labels to our categories, `MODEL` is the name that its
    results are kept under (change it when its answers change), `THREADS` how many threads may use it at once.
    """

    def load_model(self) -> None:
        """Load files and weights; called once, before anything else."""

    def preprocess(self, image: Image.Image) -> Any:
        """Make what `predict` takes from an upright RGB picture."""

    def predict(self, data: Any) -> Any:
        """Run the model."""

    def postprocess(self, prediction: Any) -> Mapping[str, Any]:
        """Return `category` or `label`, `confidence` from 0 to 1 and, if there is one, a `description`."""


def is_adaptable(candidate: object) -> bool:
    """Whether `candidate` is a class with the four methods."""
    return isinstance(candidate, type) and all(callable(getattr(candidate, name, None)) for name in METHODS)


def adapt(model_class: type[ModelInterface]) -> type["AdaptedModel"]:
    """Return the model client class of a class with the four methods.

    Raises:
        ValueError: one of its class attributes cannot be used; the text says which, and why.
    """
    model = getattr(model_class, "MODEL", f"{model_class.__module__}:{model_class.__qualname__}")
    if not isinstance(model, str) or not model.strip() or len(model) > MODEL_MAX_LENGTH:
        raise ValueError(f"MODEL must be a text of at most {MODEL_MAX_LENGTH} characters")
    threads = getattr(model_class, "THREADS", 1)
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"THREADS must be a number from 1 to {MAX_THREADS}")
    attributes = {
        "__doc__": model_class.__doc__,
        "provider": model_class.__name__,
        "default_model": model,
        "model_class": model_class,
        "categories": _categories(getattr(model_class, "CATEGORIES", {})),
        "threads": threads,
    }
    return type(f"Adapted{model_class.__name__}", (AdaptedModel,), attributes)


def _categories(labels: object) -> dict[Any, Category]:
    if not isinstance(labels, Mapping):
        raise ValueError("CATEGORIES must be a dict of labels and categories")  # noqa: TRY004 - a setting, not a call
    unknown = sorted({str(category) for category in labels.values()} - set(Category))
    if unknown:
        raise ValueError(f"CATEGORIES: there is no category {', '.join(unknown)}; there are {', '.join(Category)}")
    # A category's own key needs no mapping, but may have one.
    return {category.value: category for category in Category} | {
        label: Category(category) for label, category in labels.items()
    }


class AdaptedModel(ModelClient):
    """Runs one object of `model_class`; made by `adapt`. It works in this process, which costs nothing."""

    is_paid: ClassVar[bool] = False
    model_class: ClassVar[type[ModelInterface]]
    categories: ClassVar[Mapping[Any, Category]]
    threads: ClassVar[int]

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        # LLM_MODEL may be left over from another provider.
        self.model = self.default_model
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix=self.provider)
        self._loaded: ModelInterface | None = None

    async def _start(self) -> None:
        self._loaded = await asyncio.get_running_loop().run_in_executor(self._pool, self._load)

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._look, self._require_loaded(), photo.jpeg)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The caller was not cancelled: the client was closed while the photo waited in line.
            raise ModelUnreachable("The model is shutting down.") from None

    async def _probe(self) -> None:
        self._require_loaded()

    async def _close(self) -> None:
        self._loaded = None
        # Not waited for: code that is not ours may never come to an end.
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _require_loaded(self) -> ModelInterface:
        if self._loaded is None:
            raise ModelUnreachable("The model is not loaded.")
        return self._loaded

    def _load(self) -> ModelInterface:
        try:
            model = self.model_class()
            model.load_model()
        except Exception as error:  # noqa: BLE001 - not our code: it may raise anything
            _log_failure(self.provider, "load_model", error)
            raise ModelUnreachable("The model cannot be loaded.") from None
        return model

    def _look(self, model: ModelInterface, jpeg: bytes) -> ModelResult:
        picture = _open(jpeg)
        try:
            answer = model.postprocess(model.predict(model.preprocess(picture)))
        except Exception as error:  # noqa: BLE001 - not our code: it may raise anything
            _log_failure(self.provider, "a prediction", error)
            raise ModelError from None
        return self._checked(answer)

    def _checked(self, answer: object) -> ModelResult:
        if not isinstance(answer, Mapping):
            raise ModelAnswerInvalid("postprocess did not return a dict.")
        label = answer.get("category")
        if label is None:
            label = answer.get("label")
        confidence = answer.get("confidence")
        # Of numpy too, whose numbers are no floats, but Real.
        if isinstance(confidence, bool) or not isinstance(confidence, numbers.Real) or not 0 <= float(confidence) <= 1:
            raise ModelAnswerInvalid("The model's confidence is not a number from 0 to 1.")
        description = answer.get("description")
        shown = clean_text(str(label), _LABEL_MAX_CHARACTERS)
        return ModelResult(
            category=self._category(label, shown),
            confidence=float(confidence),
            description=clean_text(description, DESCRIPTION_MAX_CHARACTERS) or None
            if isinstance(description, str)
            else None,
            response={"model": self.model, "label": shown},
        )

    def _category(self, label: object, shown: str) -> Category:
        try:
            category = self.categories.get(label)
        except TypeError:
            # A list, or an array.
            category = None
        if category is None:
            logger.warning("model {}: CATEGORIES has no label {}", self.provider, shown)
            raise ModelAnswerInvalid("The model gave a label that is mapped to none of the categories.")
        return category


def _open(jpeg: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as file:
            return file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ModelRejectedRequest("The prepared photo cannot be decoded.") from error


def _log_failure(provider: str, what: str, error: Exception) -> None:
    """Say where it happened; what it says may hold a secret."""
    frame = traceback.extract_tb(cast("Any", error).__traceback__)[-1]
    logger.error(
        "model {}: {} raised {} in {} line {}", provider, what, type(error).__name__, frame.filename, frame.lineno
    )
