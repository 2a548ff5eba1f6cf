"""What a confidence means: where it comes from, and the temperature that makes it as often right as it says.

A model that gives a probability for each category is calibrated by one number for each model: q_c ~ p_c ** (1 / T)
(Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, 2017, section 4.2). The category stays the
same. `image-classifier evaluate --calibrate` fits T and writes it to CALIBRATION_FILE.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from loguru import logger

from app.categories import Category

# Below it a probability is as good as none; its logarithm stays finite.
PROBABILITY_FLOOR = 1e-6
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_MAX_FILE_BYTES = 1_000_000


class ConfidenceSource(StrEnum):
    """Where a confidence comes from; it stands in the record of an answer as `confidence_source`.

    SELF_REPORTED is the number that a language model writes, LOGPROBS the probability of the category's tokens,
    PROBABILITIES that of a classifier; CALIBRATED is one of the latter two with the temperature of its model.
    """

    SELF_REPORTED = "self_reported"
    LOGPROBS = "logprobs"
    PROBABILITIES = "probabilities"
    CALIBRATED = "calibrated"


def tempered(probabilities: Mapping[Category, float], temperature: float) -> dict[Category, float]:
    """Return the probabilities of all categories at a temperature: above 1 they are less sure; they sum to 1.

    A category without a probability has PROBABILITY_FLOOR.
    """
    scores = {
        category: math.log(max(probabilities.get(category, 0.0), PROBABILITY_FLOOR)) / temperature
        for category in Category
    }
    largest = max(scores.values())
    weights = {category: math.exp(score - largest) for category, score in scores.items()}
    total = sum(weights.values())
    return {category: weight / total for category, weight in weights.items()}


def model_key(provider: str, model: str) -> str:
    """Return the name under which a model's temperature is kept."""
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"


def read_temperature(file: Path | None, key: str) -> float | None:
    """Return the temperature of a model, or None where none was fitted or the file cannot be used (a warning)."""
    if file is None:
        return None
    entry = _read(file).get(key)
    temperature = entry.get("temperature") if isinstance(entry, dict) else None
    if isinstance(temperature, (int, float)) and LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        return float(temperature)
    if entry is not None:
        logger.warning("CALIBRATION_FILE: the entry {} has no temperature that can be used", key)
    return None


def write_temperature(file: Path, key: str, temperature: float, **facts: object) -> None:
    """Keep the temperature of a model, with the facts that say what it was fitted on; other models' stay.

    Raises:
        OSError: the file cannot be written.
    """
    models = _read(file)
    models[key] = {
        "temperature": round(temperature, 4),
        "fitted_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **facts,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps({"models": models}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    new.replace(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        models = content["models"]
        if not isinstance(models, dict):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        logger.warning("CALIBRATION_FILE cannot be used ({}): confidences are not calibrated", type(error).__name__)
        return {}
    return models
