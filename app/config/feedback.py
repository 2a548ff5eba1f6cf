"""Settings of feedback: how many users correct an entry, and how often one may say something."""

from pydantic import Field

from app.config.source import SettingsGroup


class FeedbackSettings(SettingsGroup):
    """What users say of answers."""

    quorum: int = Field(3, validation_alias="FEEDBACK_QUORUM", ge=0, le=1000)
    """Different users who have to agree before an entry is corrected; 0: only operators correct entries."""
    per_minute_per_address: int = Field(30, validation_alias="FEEDBACK_PER_MINUTE_PER_ADDRESS", ge=1, le=1_000_000)
    """Feedback in a minute from one address (IPv6: /48) without an API key."""
