"""What each provider answers when it gives no answer, as its users have reported it, and the error that it stands for.

    server.default = DIALECTS["OpenRouter: moderation"].reply

The bodies are made for this purpose after the forms that the sources of `app/clients/llm/error_rules.py` show.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from app.clients.errors import (
    ModelAuthenticationFailed,
    ModelError,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRefused,
    ModelRejectedRequest,
    ModelUnreachable,
)
from tests.fakes.model_replies import Reply, raw


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to say it: the reply as it goes over the wire, and what it means."""

    reply: Reply
    kind: type[ModelError]


def _says(kind: type[ModelError], status: int, body: Any, /, **headers: str) -> Dialect:
    # In ASCII, as some servers escape it: "\\u4f59".
    reply = raw(json.dumps(body).encode(), status)
    return Dialect(replace(reply, headers={name.replace("_", "-"): value for name, value in headers.items()}), kind)


def _error(kind: type[ModelError], status: int, message: str, /, **fields: Any) -> Dialect:
    return _says(kind, status, {"error": {"message": message, **fields}})


_UPSTREAM = json.dumps({"error": {"code": "data_inspection_failed", "message": "Input data may contain"}})

DIALECTS: dict[str, Dialect] = {
    # One picture.
    "OpenAI: policy": _error(ModelRefused, 400, "Your request was rejected.", code="content_policy_violation"),
    "OpenAI: safety system": _error(ModelRefused, 400, "Rejected as a result of our safety system.", code=None),
    "OpenAI: usage policy": _error(ModelRefused, 403, "Flagged as potentially violating our usage policy."),
    "Azure: filter": _error(
        ModelRefused, 400, "The response was filtered.", code="x", innererror={"code": "ResponsibleAIPolicyViolation"}
    ),
    "Anthropic: filter": _error(
        ModelRefused, 400, "Output blocked by content filtering policy", type="invalid_request_error"
    ),
    "Gemini: in a list": _says(ModelRefused, 400, [{"error": {"code": 400, "message": "PROHIBITED_CONTENT"}}]),
    "DashScope: inspection": _error(
        ModelRefused, 400, "Input data may contain inappropriate content.", code="data_inspection_failed"
    ),
    "DashScope: inspection, native": _says(ModelRefused, 400, {"code": "DataInspectionFailed", "message": "x"}),
    "Zhipu: sensitive": _error(ModelRefused, 400, "系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301"),
    "Ark: sensitive": _error(
        ModelRefused, 400, "The input image may", code="InputImageSensitiveContentDetected", type="BadRequest"
    ),
    "Ark: sensitive, severe": _error(ModelRefused, 400, "x", code="SensitiveContentDetected.SevereViolation"),
    "Moonshot: filter": _error(ModelRefused, 400, "considered high risk", type="content_filter"),
    "OpenRouter: moderation": _error(
        ModelRefused, 403, "x requires moderation. Your input was flagged.", code=403, metadata={"flagged_input": "x"}
    ),
    "OpenRouter: its provider": _error(
        ModelRefused, 400, "Provider returned error", code=400, metadata={"raw": _UPSTREAM, "provider_name": "Alibaba"}
    ),
    "OpenRouter: in a choice": _says(
        ModelRefused,
        200,
        {"choices": [{"error": {"code": 403, "message": "Your input was flagged"}, "finish_reason": "error"}]},
    ),
    "xAI: guidelines": _says(
        ModelRefused, 403, {"code": "No permission", "error": "Content violates usage guidelines."}
    ),
    "new-api: prompt": _error(ModelRefused, 500, "request blocked", type="new_api_error", code="prompt_blocked"),
    "new-api: words": _error(ModelRefused, 400, "sensitive", type="new_api_error", code="sensitive_words_detected"),
    "LiteLLM: policy": _error(ModelRefused, 400, "litellm.ContentPolicyViolationError: x", code="400"),
    "MiniMax: sensitive": _says(
        ModelRefused, 200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "x"}}
    ),
    # Money.
    "OpenAI: quota": _error(ModelQuotaExhausted, 429, "You exceeded your current quota", code="insufficient_quota"),
    "Anthropic: credit": _error(
        ModelQuotaExhausted, 400, "Your credit balance is too low", type="invalid_request_error"
    ),
    "Anthropic: limits": _error(ModelQuotaExhausted, 400, "You have reached your specified API usage limits."),
    "DashScope: arrears": _error(ModelQuotaExhausted, 400, "Access denied", code="Arrearage", type="Arrearage"),
    "DashScope: free tier": _error(ModelQuotaExhausted, 403, "x", code="AllocationQuota.FreeTierOnly"),
    "DashScope: free quota": _error(
        ModelQuotaExhausted, 429, "Free allocated quota exceeded.", code="Throttling.AllocationQuota"
    ),
    "Zhipu: arrears": _error(ModelQuotaExhausted, 429, "您的账户已欠费", code="1113"),
    "Ark: overdue": _error(ModelQuotaExhausted, 403, "overdue balance", code="AccountOverdueError", type="Forbidden"),
    "Ark: paused": _error(ModelQuotaExhausted, 429, "x", code="SetLimitExceeded", type="TooManyRequests"),
    "Moonshot: quota": _error(ModelQuotaExhausted, 429, "suspended", type="exceeded_current_quota_error"),
    "SiliconFlow: balance": _says(
        ModelQuotaExhausted, 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}
    ),
    "OpenRouter: credits": _error(ModelQuotaExhausted, 402, "Insufficient credits.", code=402),
    "OpenRouter: credits under 200": _error(ModelQuotaExhausted, 200, "This request requires more credits", code=402),
    "one-api: user": _error(
        ModelQuotaExhausted, 403, "user quota is not enough", type="one_api_error", code="insufficient_user_quota"
    ),
    "one-api: token": _error(ModelQuotaExhausted, 401, "该令牌额度已用尽", type="one_api_error"),
    "new-api: subscription": _error(
        ModelQuotaExhausted, 403, "x", type="new_api_error", code="entitlement_total_limit_exceeded"
    ),
    "LiteLLM: budget": _error(
        ModelQuotaExhausted, 400, "Budget has been exceeded! Current cost: 2", type="budget_exceeded", code="400"
    ),
    "LiteLLM: budget as a limit": _error(
        ModelQuotaExhausted, 429, "No deployments available - crossed budget", code="429"
    ),
    "xAI: credits": _says(ModelQuotaExhausted, 403, {"code": "x", "error": "Your team has used all available credits"}),
    "MiniMax: balance": _says(ModelQuotaExhausted, 200, {"base_resp": {"status_code": 1008, "status_msg": "x"}}),
    "a reseller: balance": _error(ModelQuotaExhausted, 503, "Insufficient Balance", code="invalid_request_error"),
    # Names.
    "OpenAI: model": _error(ModelNotFound, 404, "The model does not exist", code="model_not_found"),
    "DashScope: model": _error(ModelNotFound, 400, "Model not exist.", code="ModelNotFound"),
    "Zhipu: model": _error(ModelNotFound, 400, "模型不存在，请检查模型代码。", code="1211"),
    "Ark: model": _error(ModelNotFound, 404, "x", code="InvalidEndpointOrModel.NotFound", type="NotFound"),
    "Ark: not opened": _error(ModelNotFound, 404, "x", code="ModelNotOpen", type="NotFound"),
    "Ark: closed": _error(ModelNotFound, 400, "x", code="InvalidEndpoint.ClosedEndpoint", type="BadRequest"),
    "Moonshot: model": _error(ModelNotFound, 404, "Not found the model", type="resource_not_found_error"),
    "SiliconFlow: model": _says(ModelNotFound, 400, {"code": 20012, "message": "Model does not exist.", "data": None}),
    "OpenRouter: model": _error(ModelNotFound, 400, "x/y is not a valid model ID", code=400),
    "OpenRouter: endpoints": _error(ModelNotFound, 404, "No endpoints found for x/y.", code=404),
    "one-api: channel": _error(ModelNotFound, 503, "当前分组 default 下对于模型 x 无可用渠道", type="one_api_error"),
    "new-api: channel": _error(ModelNotFound, 503, "no available channel for model x", code="model_not_found"),
    "LiteLLM: model": _error(ModelNotFound, 400, "Invalid model name passed in model=x", code="400"),
    "Ollama: model": _error(ModelNotFound, 404, 'model "x" not found, try pulling it first', type="api_error"),
    "vLLM: model": _error(ModelNotFound, 404, "The model `x` does not exist.", type="NotFoundError", code=404),
    "LM Studio: model": _error(ModelNotFound, 400, "No models loaded. Please load a model", code="no_model"),
    "OpenRouter: blind model": _error(
        ModelRejectedRequest, 404, "No endpoints found that support image input", code=404
    ),
    # Keys.
    "OpenAI: key": _error(ModelAuthenticationFailed, 401, "Incorrect API key", code="invalid_api_key"),
    "Gemini: key": _says(
        ModelAuthenticationFailed,
        400,
        [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
    ),
    "DashScope: key": _says(ModelAuthenticationFailed, 401, {"code": "InvalidApiKey", "message": "Invalid API-key"}),
    "Zhipu: key": _error(ModelAuthenticationFailed, 401, "身份验证失败", code="1000"),
    "Ark: key": _error(ModelAuthenticationFailed, 401, "x", code="AuthenticationError", type="Unauthorized"),
    "Moonshot: key": _error(
        ModelAuthenticationFailed, 401, "Invalid Authentication", type="invalid_authentication_error"
    ),
    "one-api: key": _error(ModelAuthenticationFailed, 401, "无效的令牌", type="one_api_error"),
    "new-api: upstream key": _error(ModelAuthenticationFailed, 500, "x", code="channel:no_available_key"),
    "LiteLLM: access": _error(ModelAuthenticationFailed, 400, "key not allowed", type="key_model_access_denied"),
    "SiliconFlow: key": _says(ModelAuthenticationFailed, 401, "Invalid token"),
    "xAI: key": _says(ModelAuthenticationFailed, 400, {"code": "x", "error": "Incorrect API key provided"}),
    # Rates.
    "OpenAI: rate": _error(ModelRateLimited, 429, "Rate limit reached", code="rate_limit_exceeded", type="requests"),
    "Gemini: rate": _error(
        ModelRateLimited, 429, "You exceeded your current quota", code=429, status="RESOURCE_EXHAUSTED"
    ),
    "DashScope: tokens": _error(
        ModelRateLimited,
        429,
        "You exceeded your current quota: help.aliyun.com/x/error-code#token-limit",
        code="insufficient_quota",
    ),
    "DashScope: rate": _error(ModelRateLimited, 429, "Requests rate limit exceeded", code="Throttling.RateQuota"),
    "Zhipu: rate": _error(ModelRateLimited, 400, "您当前使用该API的并发数过高", code="1302"),
    "Ark: rate": _error(ModelRateLimited, 429, "x", code="RateLimitExceeded.EndpointRPMExceeded"),
    "Moonshot: rate": _error(ModelRateLimited, 429, "x", type="rate_limit_reached_error"),
    "SiliconFlow: rate": _says(
        ModelRateLimited, 403, {"code": 50603, "message": "Request was rejected due to rate limiting"}
    ),
    "OpenRouter: day, under 200": _error(ModelRateLimited, 200, "Rate limit exceeded: free-models-per-day", code=429),
    "OpenRouter: budget in flight": _says(
        ModelRateLimited, 402, {"error": {"code": 402, "message": "x"}}, retry_after="3"
    ),
    "one-api: load": _error(
        ModelRateLimited,
        429,
        "当前分组上游负载已饱和，请稍后再试",
        type="insufficient_quota",
        code="insufficient_quota",
    ),
    "LiteLLM: deployments": _error(ModelRateLimited, 429, "No deployments available for selected model", code="429"),
    "MiniMax: rate": _says(ModelRateLimited, 200, {"base_resp": {"status_code": 1002, "status_msg": "x"}}),
    "a reseller: rate": _error(ModelRateLimited, 503, "该模型遇到官方限速", code=""),
    "Anthropic: overloaded": _error(ModelUnreachable, 529, "Overloaded", type="overloaded_error"),
    "OpenRouter: down, under 200": _error(ModelUnreachable, 200, "Provider returned error", code=502),
}
