"""What model servers do, and what becomes of it: the tables behind the suites that run over every client."""

import json

from app.clients.errors import (
    ModelAuthenticationFailed,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRefused,
    ModelRejectedRequest,
    ModelResponseInvalid,
    ModelUnreachable,
)
from tests.fakes.model_replies import (
    CATEGORY,
    CONFIDENCE,
    DESCRIPTION,
    answer,
    classification,
    cut_off,
    dropped,
    dropped_in_body,
    failure,
    filtered,
    raw,
    refusal,
)

PROVIDERS = ("openai", "claude", "custom", "tests.support.plugin_client:PluginClient")

JSON = json.dumps({"category": CATEGORY, "confidence": CONFIDENCE, "description": DESCRIPTION}, ensure_ascii=False)

# A second attempt may succeed.
PASSING = {
    "rate limit": (failure(429, "rate_limit_exceeded", retry_after="0"), ModelRateLimited),
    "server error": (failure(500), ModelUnreachable),
    "bad gateway": (raw(b"<html>502</html>", 502), ModelUnreachable),
    "unavailable": (failure(503, retry_after="0"), ModelUnreachable),
    "overloaded": (failure(529, "overloaded_error"), ModelUnreachable),
    "request timeout": (failure(408), ModelUnreachable),
    "conflict": (failure(409), ModelUnreachable),
    "hostile charset": (failure(500, content_type="text/plain; charset=zlib"), ModelUnreachable),
    "dropped": (dropped(), ModelUnreachable),
    "dropped in the body": (dropped_in_body(), ModelUnreachable),
    "garbage": (raw(b"\x00\xff<html>"), ModelResponseInvalid),
    "malformed JSON": (raw(b'{"choices": [{"mess'), ModelResponseInvalid),
    "empty body": (raw(b""), ModelResponseInvalid),
    "JSON null": (raw(b"null"), ModelResponseInvalid),
    "JSON text": (raw(b'"ok"'), ModelResponseInvalid),
    "no choices": (raw(b'{"choices": [], "content": null}'), ModelResponseInvalid),
    "null choices": (raw(b'{"choices": null, "content": {}}'), ModelResponseInvalid),
    "empty places": (raw(b'{"choices": [null], "content": [null]}'), ModelResponseInvalid),
    "numbers for texts": (
        raw(b'{"choices": [{"message": {"content": 5}}], "content": [{"type": "text", "text": 5}]}'),
        ModelResponseInvalid,
    ),
    "event stream": (raw(b'event: ping\ndata: {"choices": []}\n\ndata: [DONE]\n\n'), ModelResponseInvalid),
    "an error with status 200": (raw(b'{"error": {"message": "upstream failed"}}'), ModelResponseInvalid),
    "nested beyond reason": (raw(b"[" * 100_000), ModelResponseInvalid),
    "endless": (raw(b" " * 5_000_000 + b"{}"), ModelUnreachable),
}

# A second attempt would fail too.
LASTING = {
    "wrong key": (failure(401, "invalid_api_key"), ModelAuthenticationFailed),
    "forbidden": (failure(403, "permission_error"), ModelAuthenticationFailed),
    "region": (failure(403, "unsupported_country_region_territory"), ModelAuthenticationFailed),
    "unknown model": (failure(404, "model_not_found"), ModelNotFound),
    "unknown model as 400": (failure(400, "model_not_found"), ModelNotFound),
    "quota": (failure(429, "insufficient_quota", retry_after="0"), ModelQuotaExhausted),
    "hard limit": (failure(400, "billing_hard_limit_reached"), ModelQuotaExhausted),
    "arrears": (failure(400, "Arrearage"), ModelQuotaExhausted),
    "arrears as a number": (raw(b'{"error": {"code": 1113}}', 429), ModelQuotaExhausted),
    "payment required": (failure(402), ModelQuotaExhausted),
    "billing": (failure(403, "billing_error"), ModelQuotaExhausted),
    "spend limit": (
        raw(b'{"error": {"details": {"error_code": "enforced_spend_limit_reached"}}}', 429),
        ModelQuotaExhausted,
    ),
    "credit balance": (
        failure(400, message="Your credit balance is too low to access the API."),
        ModelQuotaExhausted,
    ),
    "too large": (failure(413), ModelRejectedRequest),
    "redirect": (failure(307, location="http://192.0.2.1/"), ModelRejectedRequest),
    "teapot": (failure(418), ModelRejectedRequest),
    "filter as 400": (failure(400, "content_filter"), ModelRefused),
    "policy as 400": (failure(400, "content_policy_violation"), ModelRefused),
    "inspection": (failure(400, "data_inspection_failed"), ModelRefused),
    "refusal": (refusal(), ModelRefused),
    "filter": (filtered(), ModelRefused),
}

# The model answers, but not with a classification.
INVALID = {
    "wrong category": classification(category="cats"),
    "confidence 1.7": classification(confidence=1.7),
    "negative confidence": classification(confidence=-0.1),
    "percentage": classification(confidence=95),
    "text as confidence": classification(confidence="0.9"),
    "true as confidence": classification(confidence=True),
    "NaN": answer('{"category": "pets", "confidence": NaN}'),
    "no JSON": answer("It is a cat."),
    "two objects": answer(JSON + JSON.replace("pets", "foods")),
    "empty": answer(""),
    "cut off": cut_off(),
    "cut off after the object": cut_off(JSON),
    "cut off in blank space after half of the object": cut_off(JSON[:-1] + " " * 400),
    "thoughts that do not end": answer(f"<think>It may be {JSON}. But wait, in the middle there is a"),
}

VALID = {
    "bare": JSON,
    "fenced": f"```json\n{JSON}\n```",
    "prose around": f"Sure! Here {{it}} is:\n{JSON}\nAnything else?",
    "thoughts without a beginning": f'It may be {{"category": "foods", "confidence": 1}}.\n</think>\n\n{JSON}',
    "thoughts before": f'<think>Perhaps {{"category": "foods"}}?</think>\n{JSON}',
}
