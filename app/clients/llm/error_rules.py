"""What providers say when they give no answer, as one table: the first row that matches says which error it is.

A row is: provider, error, what the response is recognised by, source. It is recognised by its status, then by a code
(`code a b`: any `code`, `type`, `status` or the like of the body is one of these, `*` stands for any characters) or by
words (`says a | b`: any text of the body holds one of these), all in lower case. A reader who meets a new one adds a
row, here and in docs/providers.md; a test compares the two.

Order matters: what is about one picture comes first, since the status and type beside it often speak of a permission;
then rate limits that are dressed as unpaid bills; then the rest, and at the end what the status alone says.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

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

# Sources that several rows share; the others stand in their rows.
_ANTHROPIC = "https://docs.claude.com/en/api/errors"
_ARK = "https://www.volcengine.com/docs/82379/1299023"
_DASHSCOPE = "https://help.aliyun.com/en/model-studio/error-code"
_GEMINI = "https://ai.google.dev/gemini-api/docs/troubleshooting"
_LITELLM = "https://docs.litellm.ai/docs/exception_mapping"
_MINIMAX = "https://platform.minimaxi.com/document/error_codes"
_MOONSHOT = "https://platform.kimi.com/docs/api/errors"
_NEW_API = "https://github.com/QuantumNous/new-api/blob/main/types/error.go"
_OPENAI = "https://platform.openai.com/docs/guides/error-codes"
_OPENROUTER = "https://openrouter.ai/docs/api/reference/errors-and-debugging"
_RESELLER = "https://docs.aihubmix.com/cn/FAQs/HTTP-Codes"
_ZHIPU = "https://docs.z.ai/api-reference/api-code"

# A limit that lasts for the day: longer than any request waits, short enough to notice when it is lifted.
_DAY = 600.0
_REGION = "The model provider does not serve this server's region."
NO_VISION = (
    "The model server does not take this picture. Set LLM_MODEL to a model that can see pictures, "
    "and check that the server has loaded its vision part."
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. `pause_seconds`: for how long, at least, the provider will say the same; None: unknown.

    `advice`: what the operator has to do, where the error's usual advice does not fit.
    """

    provider: str
    kind: type[ModelError]
    recognised_by: str
    source: str
    pause_seconds: float | None = None
    advice: str | None = None

    def matches(self, status: int, codes: Collection[str], text: str) -> bool:
        """Say whether the row is about a response; `codes` and `text` are in lower case."""
        numbers, by, values = _ROW.fullmatch(self.recognised_by).groups(default="")  # type: ignore[union-attr] # a test sees to it
        if numbers and not any(fnmatchcase(str(status), each.replace("xx", "??")) for each in numbers.split()):
            return False
        if by == "code":
            return any(fnmatchcase(code, pattern) for pattern in values.split() for code in codes)
        return by != "says" or any(words in text for words in values.split(" | "))


_ROW = re.compile(r"((?:[1-5](?:\d\d|xx) ?)*)(?:(code|says) (.+))?")

RULES: tuple[Rule, ...] = (
    # One picture.
    Rule("OpenAI", ModelRefused, "code content_policy_violation content_filter moderation_blocked", _OPENAI),
    Rule("OpenAI", ModelRefused, "code image_content_policy_violation", _OPENAI),
    Rule("OpenAI", ModelRefused, "says violating our usage policy | our safety system", _OPENAI),
    Rule(
        "Azure",
        ModelRefused,
        "code responsibleaipolicyviolation",
        "https://learn.microsoft.com/azure/ai-foundry/openai",
    ),
    Rule("Anthropic", ModelRefused, "says blocked by content filtering policy", _ANTHROPIC),
    Rule("Gemini", ModelRefused, "says prohibited_content | blockreason | block_reason", _GEMINI),
    Rule("DashScope", ModelRefused, "code data_inspection_failed *datainspectionfailed", _DASHSCOPE),
    Rule("DashScope", ModelRefused, "says may contain inappropriate content", _DASHSCOPE),
    Rule("Zhipu", ModelRefused, "code 1301", _ZHIPU),
    Rule("Zhipu", ModelRefused, "says 不安全或敏感内容 | unsafe or sensitive content", _ZHIPU),
    Rule("Ark", ModelRefused, "code *sensitivecontentdetected* *riskdetection*", _ARK),
    Rule("Moonshot", ModelRefused, "says considered high risk", _MOONSHOT),
    Rule("OpenRouter", ModelRefused, "says requires moderation | input was flagged | flagged_input", _OPENROUTER),
    Rule(
        "xAI",
        ModelRefused,
        "says violates usage guidelines | safety_check_type",
        "https://github.com/UKGovernmentBEIS/inspect_ai/issues/2267",
    ),
    Rule("new-api", ModelRefused, "code sensitive_words_detected prompt_blocked violation_fee.*", _NEW_API),
    Rule("LiteLLM", ModelRefused, "says contentpolicyviolationerror", _LITELLM),
    Rule("MiniMax", ModelRefused, "code base_resp:1026 base_resp:1027", _MINIMAX),
    Rule("resellers", ModelRefused, "says content moderation | content policy | content safety", _RESELLER),
    Rule("resellers", ModelRefused, "says 内容安全 | 内容审核 | 敏感内容 | 违规内容", _RESELLER),
    # Rate limits that are dressed as unpaid bills, and those of a day.
    Rule("one-api", ModelRateLimited, "says 负载已饱和", "https://github.com/labring/FastGPT/issues/1056"),
    Rule("DashScope", ModelQuotaExhausted, "code allocationquota.freetieronly", _DASHSCOPE),
    Rule("DashScope", ModelQuotaExhausted, "says free allocated quota exceeded", _DASHSCOPE),
    Rule("DashScope", ModelRateLimited, "says error-code#token-limit | error-code#rate-limit", _DASHSCOPE),
    Rule("DashScope", ModelRateLimited, "says allocated quota exceeded | current requests list", _DASHSCOPE),
    Rule("DashScope", ModelRateLimited, "code throttling* limit_requests limit_burst_rate", _DASHSCOPE),
    Rule("Gemini", ModelRateLimited, "429 says perdayperproject", _GEMINI, pause_seconds=_DAY),
    Rule(
        "Gemini", ModelRateLimited, "code resource_exhausted", "https://github.com/google-gemini/gemini-cli/issues/8437"
    ),
    Rule(
        "OpenRouter",
        ModelRateLimited,
        "says models-per-day",
        "https://github.com/decolua/9router/issues/2727",
        pause_seconds=_DAY,
    ),
    # Money.
    Rule(
        "OpenAI", ModelQuotaExhausted, "code insufficient_quota billing_hard_limit_reached billing_not_active", _OPENAI
    ),
    Rule("Anthropic", ModelQuotaExhausted, "code billing_error *spend_limit_reached", _ANTHROPIC),
    Rule("Anthropic", ModelQuotaExhausted, "says credit balance is too low | specified api usage limits", _ANTHROPIC),
    Rule("DashScope", ModelQuotaExhausted, "code *arrearage prepaidbilloverdue postpaidbilloverdue", _DASHSCOPE),
    Rule("Zhipu", ModelQuotaExhausted, "code 1113 1304 1308 1309 1310", _ZHIPU),
    Rule("Ark", ModelQuotaExhausted, "code accountoverdueerror *.serviceoverdue quotaexceeded setlimitexceeded", _ARK),
    Rule("Moonshot", ModelQuotaExhausted, "code exceeded_current_quota_error", _MOONSHOT),
    Rule("SiliconFlow", ModelQuotaExhausted, "code 30001", "https://err.dmxapi.cn/detail.php?id=1150"),
    Rule("OpenRouter", ModelQuotaExhausted, "says insufficient credits | requires more credits", _OPENROUTER),
    Rule("one-api", ModelQuotaExhausted, "code insufficient_user_quota pre_consume_token_quota_failed", _NEW_API),
    Rule(
        "one-api",
        ModelQuotaExhausted,
        "says quota is not enough | 额度已用尽 | 额度不足 | 余额不足",
        "https://github.com/songquanpeng/one-api/issues/1270",
    ),
    Rule("new-api", ModelQuotaExhausted, "code entitlement_*", _NEW_API),
    Rule("LiteLLM", ModelQuotaExhausted, "code budget_exceeded", "https://github.com/BerriAI/litellm/pull/4606"),
    Rule(
        "LiteLLM",
        ModelQuotaExhausted,
        "says budget has been exceeded | exceededbudget | exceededtokenbudget | crossed budget",
        "https://github.com/BerriAI/litellm/issues/14144",
    ),
    Rule("xAI", ModelQuotaExhausted, "says used all available credits | monthly spending limit", "https://docs.x.ai"),
    Rule("MiniMax", ModelQuotaExhausted, "code base_resp:1008 base_resp:2056", _MINIMAX),
    Rule("resellers", ModelQuotaExhausted, "says insufficient balance | balance is insufficient", _RESELLER),
    Rule("resellers", ModelQuotaExhausted, "says not_enough_balance | 欠费 | 请充值", _RESELLER),
    # Models that are not there, or cannot see.
    Rule(
        "OpenRouter",
        ModelRejectedRequest,
        "says no endpoints found that support image input",
        "https://github.com/nexu-io/nexu/issues/875",
        advice=NO_VISION,
    ),
    Rule("OpenAI", ModelNotFound, "code model_not_found", _OPENAI),
    Rule("Azure", ModelNotFound, "code deploymentnotfound", "https://learn.microsoft.com/azure/ai-foundry/openai"),
    Rule("Anthropic", ModelNotFound, "code not_found_error", _ANTHROPIC),
    Rule("DashScope", ModelNotFound, "code modelnotfound model_not_supported", _DASHSCOPE),
    Rule("Zhipu", ModelNotFound, "code 1211 1220 1221 1222", _ZHIPU),
    Rule("Ark", ModelNotFound, "code invalidendpoint* modelnotopen *.servicenotopen unsupportedmodel", _ARK),
    Rule("Moonshot", ModelNotFound, "code resource_not_found_error", _MOONSHOT),
    Rule("SiliconFlow", ModelNotFound, "code 20012 30003", "https://docs.siliconflow.com/en/faqs/error-code"),
    Rule(
        "OpenRouter",
        ModelNotFound,
        "says is not a valid model id | no endpoints found | no allowed providers",
        "https://github.com/skalesapp/skales/issues/192",
    ),
    Rule("one-api", ModelNotFound, "says 无可用渠道 | 无可用的渠道 | 没有可用的渠道 | no available channel", _RESELLER),
    Rule("LiteLLM", ModelNotFound, "says invalid model name passed in", _LITELLM),
    Rule("LM Studio", ModelNotFound, "says no models loaded", "https://github.com/lmstudio-ai/lmstudio-bug-tracker"),
    Rule("Ollama", ModelNotFound, "says try pulling it first", "https://github.com/ollama/ollama"),
    Rule("resellers", ModelNotFound, "says model does not exist | model not exist | 模型不存在", _RESELLER),
    # The key.
    Rule("OpenAI", ModelAuthenticationFailed, "code unsupported_country_region_territory", _OPENAI, advice=_REGION),
    Rule("Gemini", ModelAuthenticationFailed, "says user location is not supported", _GEMINI, advice=_REGION),
    Rule("OpenAI", ModelAuthenticationFailed, "code invalid_api_key account_deactivated", _OPENAI),
    Rule("Anthropic", ModelAuthenticationFailed, "code authentication_error permission_error", _ANTHROPIC),
    Rule("Anthropic", ModelAuthenticationFailed, "says this organization has been disabled", _ANTHROPIC),
    Rule("Gemini", ModelAuthenticationFailed, "says api key not valid | api key expired | api_key_invalid", _GEMINI),
    Rule("DashScope", ModelAuthenticationFailed, "code invalidapikey *accessdenied*", _DASHSCOPE),
    Rule("Zhipu", ModelAuthenticationFailed, "400 401 403 code 1000 1001 1002 1003 1004 1110 1111 1112 1121", _ZHIPU),
    Rule("Ark", ModelAuthenticationFailed, "code authenticationerror invalidaccountstatus", _ARK),
    Rule("Moonshot", ModelAuthenticationFailed, "code invalid_authentication_error incorrect_api_key_error", _MOONSHOT),
    Rule("new-api", ModelAuthenticationFailed, "code channel:invalid_key channel:no_available_key", _NEW_API),
    Rule("one-api", ModelAuthenticationFailed, "says 无效的令牌 | 令牌已过期 | 用户已被封禁", _RESELLER),
    Rule(
        "LiteLLM", ModelAuthenticationFailed, "code token_not_found_in_db expired_key *_model_access_denied", _LITELLM
    ),
    Rule("xAI", ModelAuthenticationFailed, "says incorrect api key", "https://docs.x.ai"),
    Rule("MiniMax", ModelAuthenticationFailed, "code base_resp:1004 base_resp:2049", _MINIMAX),
    # Rate limits.
    Rule("OpenAI", ModelRateLimited, "code rate_limit_exceeded", _OPENAI),
    Rule("Anthropic", ModelRateLimited, "code rate_limit_error", _ANTHROPIC),
    Rule("Zhipu", ModelRateLimited, "code 1302 1303 1305 1312", _ZHIPU),
    Rule("Ark", ModelRateLimited, "code *ratelimitexceeded* serveroverloaded", _ARK),
    Rule("Moonshot", ModelRateLimited, "code rate_limit_reached_error engine_overloaded_error", _MOONSHOT),
    Rule("LiteLLM", ModelRateLimited, "says no deployments available", _LITELLM),
    Rule("new-api", ModelRateLimited, "code token_concurrency_*", _NEW_API),
    Rule("MiniMax", ModelRateLimited, "code base_resp:1002 base_resp:1041", _MINIMAX),
    Rule("resellers", ModelRateLimited, "says 官方限速 | 请求频率超过限制", _RESELLER),
    Rule("resellers", ModelRateLimited, "200 400 403 503 says rate limit | too many requests", _RESELLER),
    # The status alone.
    Rule("any", ModelUnreachable, "408 409 425 5xx", _OPENAI),
    Rule("any", ModelQuotaExhausted, "402", _OPENROUTER),
    Rule("any", ModelNotFound, "404", _OPENAI),
    Rule("any", ModelAuthenticationFailed, "401 403", _OPENAI),
    Rule("any", ModelRateLimited, "429", _OPENAI),
    Rule(
        "any",
        ModelRejectedRequest,
        "413",
        _ANTHROPIC,
        advice="The picture is too large for the model server: lower LLM_IMAGE_MAX_EDGE.",
    ),
    Rule(
        "any",
        ModelRejectedRequest,
        "3xx",
        "https://www.rfc-editor.org/rfc/rfc9110#section-15.4",
        advice="The model server redirects: set LLM_BASE_URL to its final address.",
    ),
)

# Beginnings of a `finish_reason` that means a refusal: OpenAI and Gemini's OpenAI form ("content_filter: ..."), Zhipu,
# and Gemini's own words (https://ai.google.dev/api/generate-content#FinishReason).
REFUSAL_FINISHES = (
    *("content_filter", "content-filter", "contentfilter", "sensitive", "refusal", "moderation", "safety"),
    *("prohibited_content", "blocklist", "image_safety", "image_prohibited_content", "recitation", "spii"),
)


def find_rule(status: int, codes: Collection[str], text: str) -> Rule | None:
    """Return the first row that matches a response, or None where it says nothing that is known."""
    return next((rule for rule in RULES if rule.matches(status, codes, text)), None)


def is_refusal(finish_reason: object) -> bool:
    """Say whether a `finish_reason` means that the safety filter has stopped the answer."""
    return isinstance(finish_reason, str) and finish_reason.strip().lower().startswith(REFUSAL_FINISHES)
