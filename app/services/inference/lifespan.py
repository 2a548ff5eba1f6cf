"""What a process needs for inference: the models by name, and what they have said already."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clients.base import ModelClient
from app.config.settings import Settings
from app.runtime.memory_budget import MemoryBudget
from app.services.classification.service import ClassifierService
from app.services.inference.catalogue import ModelCatalogue
from app.services.inference.further_models import FurtherModels
from app.services.inference.results import InferenceResults
from app.services.inference.service import InferenceService
from app.services.library.service import LibraryService
from app.services.request_log.recorder import RequestRecorder
from app.services.spool.service import Spool


@asynccontextmanager
async def open_inference(
    settings: Settings,
    engine: AsyncEngine,
    *,
    service_client: ModelClient,
    started: Mapping[str, ModelClient],
    classifier: ClassifierService,
    library: LibraryService,
    recorder: RequestRecorder,
    memory: MemoryBudget,
    spool: Spool,
) -> AsyncIterator[tuple[ModelCatalogue, InferenceService]]:
    """Run models for the length of the block; at its end, wait for what is under way and close those loaded here.

    Args:
        settings: what models and pictures are taken.
        engine: the database.
        service_client: the model of the service, started.
        started: others that run already, by name.
        classifier: asks models.
        library: has the pictures.
        recorder: logs what was answered.
        memory: what pictures may take of it.
        spool: takes results that the database does not.

    Raises:
        ModelConfigurationError: a name of MODELS means something else already.
    """
    models = ModelCatalogue(service_client, settings.model, started)
    results = InferenceResults(engine, spool)
    inference = InferenceService(
        results=results,
        library=library,
        models=models,
        classifier=classifier,
        further_models=FurtherModels(results, classifier),
        shares_results=settings.library.shares_results,
        recorder=recorder,
        memory=memory,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        stack.push_async_callback(inference.close)
        yield models, inference
