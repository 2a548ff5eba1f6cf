"""A language model is asked, its text is parsed, and an invalid answer is sent back once with what was wrong.

The one correction happens inside one attempt of the base class, so both asks share LLM_TIMEOUT; a retry of the base
class (429, 5xx, broken connection) starts over with a fresh ask. A provider fills in `_ask`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from loguru import logger

from app.categories import Category
from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.calibration import ConfidenceSource, model_key, read_temperature, tempered
from app.clients.errors import ModelAnswerInvalid, ModelRefused
from app.clients.llm.parsing import ANSWER_MAX_CHARACTERS, ParsedAnswer, clean_text, is_whole, parse_answer
from app.clients.llm.prompt import Correction, Prompt, build_prompt
from app.clients.metering import CallOutcome, ModelCall, may_call_again, note_call
from app.config.model import ModelSettings
from app.language.accept import Language
from app.observability import metrics

# What is kept of an answer: about ten times a usual one, and a bounded row in the database.
RAW_ANSWER_MAX_CHARACTERS = 2000
_MODEL_NAME_MAX_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class LLMAnswer:
    """One answer of a model: its text, what it cost in tokens, and the name of the model as the server gives it.

    `cached_input_tokens` and `cache_write_tokens` are part of `input_tokens`. `cut_off` is true when the token limit
    ended the answer, `refused` when the safety filter of the model or of its provider stands behind it, `thought` when
    thoughts came with it. `probabilities` are those of the categories, by the tokens' log-probabilities, where the
    server gives them.
    """

    text: str
    input_tokens: int
    output_tokens: int
    model: str | None
    cut_off: bool = False
    refused: bool = False
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    thought: bool = False
    probabilities: dict[Category, float] | None = None


class LLMClient(ModelClient):
    """Base of the clients that ask a language model; `prompts` are what it is asked with, by language."""

    takes_language = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.prompts = {language: build_prompt(language) for language in Language}
        self._temperature = read_temperature(settings.calibration_file, model_key(self.provider, self.model))

    @abstractmethod
    async def _ask(self, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        """Ask once about the picture, with `prompt` and, after an invalid answer, with `correction`.

        Calls that have given no answer are noted here (`note_call`); the answer is noted by the caller.

        Raises:
            ModelRefused: the provider's safety filter refused the picture without an answer.
            ModelError: any other failure; its class says which.
        """

    async def _classify(self, photo: PreparedPhoto) -> ModelResult:
        prompt = self.prompts[photo.language]
        answer, parsed = await self._ask_and_parse(photo.jpeg, prompt, None)
        answers = [answer]
        if isinstance(parsed, ModelAnswerInvalid):
            logger.warning("model {} ({}) gave an invalid answer: {}", self.provider, self.model, parsed.text)
            if not await may_call_again():
                raise parsed
            # A lone surrogate has no UTF-8, so it could not be sent back.
            said = answer.text.strip()[:ANSWER_MAX_CHARACTERS].encode(errors="replace").decode()
            answer, parsed = await self._ask_and_parse(photo.jpeg, prompt, Correction(said, parsed.text))
            answers.append(answer)
            if isinstance(parsed, ModelAnswerInvalid):
                raise parsed
        return self._result(parsed, answers)

    def judged(self, answer: LLMAnswer) -> tuple[ModelCall, ModelResult | ModelAnswerInvalid | ModelRefused]:
        """Return the call that an answer was, and what it says, or what is wrong with it; nothing is asked or noted."""
        call, parsed = _read(answer)
        if not isinstance(parsed, ParsedAnswer):
            return call, parsed
        return call, self._result(parsed, [answer])

    def count_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of an answer in the metrics; in the event loop."""
        metrics.count(metrics.MODEL_TOKENS.labels(self.provider, "input"), input_tokens)
        metrics.count(metrics.MODEL_TOKENS.labels(self.provider, "output"), output_tokens)

    def _result(self, parsed: ParsedAnswer, answers: list[LLMAnswer]) -> ModelResult:
        confidence, facts = self._confidence(answers[-1], parsed)
        return ModelResult(parsed.category, confidence, parsed.description, _response(answers) | facts)

    def _confidence(self, answer: LLMAnswer, parsed: ParsedAnswer) -> tuple[float, dict[str, Any]]:
        """Return the confidence, and what the record of the answer says of where it is from."""
        probabilities = answer.probabilities
        # A server may list tokens that its answer is not made of.
        if probabilities is None or parsed.category not in probabilities:
            return parsed.confidence, {"confidence_source": ConfidenceSource.SELF_REPORTED.value}
        facts: dict[str, Any] = {
            "confidence_source": ConfidenceSource.LOGPROBS.value,
            "probabilities": {
                category.value: round(probability, 6) for category, probability in tempered(probabilities, 1.0).items()
            },
        }
        if self._temperature is None:
            return probabilities[parsed.category], facts
        facts |= {"confidence_source": ConfidenceSource.CALIBRATED.value, "temperature": self._temperature}
        return tempered(probabilities, self._temperature)[parsed.category], facts

    async def _ask_and_parse(
        self, jpeg: bytes, prompt: Prompt, correction: Correction | None
    ) -> tuple[LLMAnswer, ParsedAnswer | ModelAnswerInvalid]:
        """Ask once, note the call, and return the answer with what it says, or with what is wrong with it.

        Raises:
            ModelError: as `_ask`; ModelRefused also where the answer is a refusal.
        """
        answer = await self._ask(jpeg, prompt, correction)
        self.count_tokens(answer.input_tokens, answer.output_tokens)
        call, parsed = _read(answer)
        note_call(call)
        if isinstance(parsed, ModelRefused):
            raise parsed
        return answer, parsed


def _read(answer: LLMAnswer) -> tuple[ModelCall, ParsedAnswer | ModelAnswerInvalid | ModelRefused]:
    """Return the call that an answer was, and what it says, or what is wrong with it."""
    parsed: ParsedAnswer | ModelAnswerInvalid | ModelRefused
    outcome = CallOutcome.ANSWERED
    try:
        parsed = _parse(answer)
    except ModelAnswerInvalid as error:
        outcome, parsed = CallOutcome.INVALID, error
    if answer.refused:
        outcome, parsed = CallOutcome.REFUSED, ModelRefused()
    call = ModelCall(
        outcome,
        is_charged=True,
        input_tokens=answer.input_tokens,
        cached_input_tokens=min(answer.cached_input_tokens, answer.input_tokens),
        cache_write_tokens=min(answer.cache_write_tokens, answer.input_tokens),
        output_tokens=answer.output_tokens,
    )
    return call, parsed


def _parse(answer: LLMAnswer) -> ParsedAnswer:
    if answer.cut_off and not is_whole(answer.text):
        raise ModelAnswerInvalid(
            "The answer was cut off at the token limit; it must be shorter.", advice="Check LLM_MAX_TOKENS."
        )
    if not answer.text.strip():
        raise ModelAnswerInvalid("The answer was empty.")
    return parse_answer(answer.text)


def _response(answers: list[LLMAnswer]) -> dict[str, Any]:
    """What is kept for the operator: the last answer, and the tokens of all asks together, since all are paid."""
    last = answers[-1]
    input_tokens = sum(answer.input_tokens for answer in answers)
    output_tokens = sum(answer.output_tokens for answer in answers)
    return {
        "answer": clean_text(last.text, RAW_ANSWER_MAX_CHARACTERS),
        "model": clean_text(last.model, _MODEL_NAME_MAX_CHARACTERS) if last.model else None,
        "usage": {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
        "attempts": len(answers),
    }
