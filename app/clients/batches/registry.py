"""Which model clients have batches: those of the two providers that offer them, at their own addresses or a proxy's."""

from app.clients.base import ModelClient
from app.clients.batches.base import BatchClient


def has_batches(client: ModelClient) -> bool:
    """Say whether the provider of a model client has batches."""
    # A subclass is a server that speaks the same language without them. By name: the SDKs are loaded only where they
    # are used.
    return f"{type(client).__module__}.{type(client).__name__}" in {
        "app.clients.llm.openai.OpenAIClient",
        "app.clients.llm.claude.ClaudeClient",
    }


def open_batches_of(client: ModelClient) -> BatchClient:
    """Return the batches of a model client that has them; to be closed before the client."""
    if client.provider == "claude":
        from app.clients.batches.claude import ClaudeBatches

        return ClaudeBatches(client)  # type: ignore[arg-type]  # has_batches says so
    from app.clients.batches.openai import OpenAIBatches

    return OpenAIBatches(client)  # type: ignore[arg-type]  # has_batches says so
