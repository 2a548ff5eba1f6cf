"""What a model client raises: instead of an answer, and at the start where an operator has to change a setting.

ModelError 502 model_error
├── ModelAnswerInvalid 502 model_answer_invalid
├── ModelRefused 502 model_refused                  the model's safety filter
├── ModelRejectedRequest 502 model_rejected_request  it will not take what we send
├── ModelResponseInvalid 502 model_response_invalid  a 200 that is not what the API promises; retried
├── ModelTimeout 504 model_timeout
├── ModelAuthenticationFailed 503 model_authentication_failed
├── ModelNotFound 503 model_not_found
├── ModelQuotaExhausted 503 model_quota_exhausted
├── ModelPreparing 503 model_preparing               the local model is being fetched and built
├── ModelWeightsMissing 503 model_weights_missing   and that has failed
├── ModelCircuitOpen 503 model_circuit_open          too many pictures failed; we do not ask for a while
├── ModelBusy 503 model_busy                         more photos wait for the model than it can take in time
└── ModelUnreachable 503 model_unreachable           broken connection, 5xx; retried
    └── ModelRateLimited 503 model_rate_limited      429; retried

ModelConfigurationError   at the start: settings that can give no model client

A message is for the caller, who cannot change a setting; what the operator has to do is `advice`, which is logged.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from app.errors import AppError

# Of what only an operator can mend: the code tells the causes apart.
_NOT_AVAILABLE = "The model is not available at the moment. Try again later."


class ModelConfigurationError(Exception):
    """LLM_* or MODELS cannot give a model client; the text says to the operator what to change, without secrets."""


class ModelError(AppError):
    """The model did not give an answer. `retryable`: the same call may succeed a moment later.

    `another_may_answer`: it is about the model's server, not about the picture, so another model is asked where there
    is one. `usual_advice` is what the operator should do, where no other `advice` is given.
    """

    status = 502
    code = "model_error"
    message = "The model failed."
    retryable: ClassVar[bool] = False
    another_may_answer: ClassVar[bool] = False
    usual_advice: ClassVar[str | None] = None

    def __init__(
        self,
        message: str | None = None,
        *,
        values: Mapping[str, object] | None = None,
        advice: str | None = None,
        details: Any = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, values=values, details=details, retry_after_seconds=retry_after_seconds)
        self.advice = advice or self.usual_advice


class ModelAnswerInvalid(ModelError):
    code = "model_answer_invalid"
    message = "The model's answer was not a valid classification."


class ModelRefused(ModelError):
    code = "model_refused"
    message = "The model's safety filter refused this picture. Sending it again will not help."


class ModelRejectedRequest(ModelError):
    code = "model_rejected_request"
    message = "The model does not accept the request for this picture."
    usual_advice = "Check that LLM_MODEL is a model that can see pictures."


class ModelResponseInvalid(ModelError):
    code = "model_response_invalid"
    message = "The model server answered something that is no answer of a model. Try again shortly."
    retryable = True
    another_may_answer = True


class ModelTimeout(ModelError):
    status = 504
    code = "model_timeout"
    message = "The model took too long."
    another_may_answer = True


class ModelAuthenticationFailed(ModelError):
    status = 503
    code = "model_authentication_failed"
    message = _NOT_AVAILABLE
    usual_advice = "The provider does not accept the service's credentials. Check LLM_API_KEY."
    another_may_answer = True


class ModelNotFound(ModelError):
    status = 503
    code = "model_not_found"
    message = _NOT_AVAILABLE
    usual_advice = "The provider does not know this model or address. Check LLM_MODEL and LLM_BASE_URL."
    another_may_answer = True


class ModelQuotaExhausted(ModelError):
    status = 503
    code = "model_quota_exhausted"
    message = _NOT_AVAILABLE
    usual_advice = "The quota with the provider is used up. Raise it there."
    another_may_answer = True


class ModelPreparing(ModelError):
    status = 503
    code = "model_preparing"
    message = "The model is being prepared, which takes about a minute. Try again shortly."
    another_may_answer = True


class ModelWeightsMissing(ModelError):
    status = 503
    code = "model_weights_missing"
    message = _NOT_AVAILABLE
    usual_advice = (
        "The local model's weights are missing and cannot be fetched. Run `make model`, or choose another LLM_PROVIDER."
    )
    another_may_answer = True


class ModelCircuitOpen(ModelError):
    status = 503
    code = "model_circuit_open"
    message = "The model has failed too often and is left alone for a moment. Try again shortly."
    another_may_answer = True


class ModelBusy(ModelError):
    status = 503
    code = "model_busy"
    message = "Too many photos are waiting for the model. Try again shortly."
    another_may_answer = True


class ModelUnreachable(ModelError):
    status = 503
    code = "model_unreachable"
    message = "The model cannot be reached. Try again shortly."
    retryable = True
    another_may_answer = True


class ModelRateLimited(ModelUnreachable):
    code = "model_rate_limited"
    message = "The model provider limits our rate. Try again shortly."


# What a route that asks the model may answer, for its `responses`.
MODEL_ERRORS: tuple[type[ModelError], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, type) and issubclass(value, ModelError)
)
