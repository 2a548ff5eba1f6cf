"""What a fake model server is told to answer, in words that no provider owns; `model_wire` gives them their form."""

import json
import math
from dataclasses import dataclass, field, replace

# What the default answer says, for tests that compare.
CATEGORY = "pets"
CONFIDENCE = 0.93
DESCRIPTION = "沙发上的一只橘猫"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Made by the functions below; `delayed` puts a pause before it.

    `logprobs` are those of the text's tokens, in OpenAI's form, which only its answers have.
    """

    text: str = ""
    finish: str = "stop"
    status: int = 200
    code: str | None = None
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    sent_bytes: int | None = None
    delay_seconds: float = 0.0
    logprobs: object = None

    def delayed(self, seconds: float) -> "Reply":
        return replace(self, delay_seconds=seconds)


def classification(
    category: str = CATEGORY, confidence: object = CONFIDENCE, description: object = DESCRIPTION
) -> Reply:
    """A bare JSON object; valid unless the arguments are not."""
    fields = {"category": category, "confidence": confidence, "description": description}
    return answer(json.dumps(fields, ensure_ascii=False))


def answer(text: str) -> Reply:
    """Any text of the model."""
    return Reply(text=text)


def likely(category: str, **probabilities: float) -> Reply:
    """A classification with the probability of its category, and of others in its place, as log-probabilities.

    The categories must begin with different letters: what tells them apart is one token.
    """
    reply = classification(category)
    head = '{"category": "'
    tail = reply.text.removeprefix(f"{head}{category}")
    ways = [{"token": key, "logprob": math.log(value)} for key, value in probabilities.items()]
    tokens = [
        {"token": head, "logprob": 0.0, "top_logprobs": []},
        {"token": category, "logprob": math.log(probabilities[category]), "top_logprobs": ways},
        {"token": tail, "logprob": -2.0, "top_logprobs": []},
    ]
    return replace(reply, logprobs=tokens)


def cut_off(text: str = '{"category": "pe') -> Reply:
    """An answer that the token limit ended."""
    return Reply(text=text, finish="length")


def refusal() -> Reply:
    """The model itself refuses: OpenAI's `message.refusal`, Anthropic's stop reason."""
    return Reply(finish="refusal")


def filtered() -> Reply:
    """The provider's filter stops the answer: finish reason `content_filter`, Anthropic's stop reason."""
    return Reply(finish="content_filter")


def failure(status: int, code: str | None = None, message: str = "No.", **headers: str) -> Reply:
    """An error of the API; headers are given as `retry_after="0"`."""
    return Reply(
        status=status,
        code=code,
        message=message,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def raw(body: bytes, status: int = 200) -> Reply:
    """A body that the wire format does not know."""
    return Reply(status=status, raw=body)


def dropped() -> Reply:
    """The connection ends before the response begins."""
    return Reply(sent_bytes=0)


def dropped_in_body() -> Reply:
    """The connection ends in the middle of a valid answer."""
    return replace(classification(), sent_bytes=20)
