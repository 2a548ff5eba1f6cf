"""What signed requests have used up."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import TABLE_OPTIONS, Base, UtcDateTime


class SignatureNonce(Base):
    """The nonce of one signed request: its row can be inserted once, so a copy of the request is refused."""

    __tablename__ = "signature_nonce"

    nonce_hash: Mapped[str] = mapped_column(String(64), primary_key=True, comment="密钥ID与随机数的SHA-256")
    request_id: Mapped[str] = mapped_column(String(64), comment="使用它的请求ID")
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="过期时间(UTC), 之后可删除")

    __table_args__ = (
        Index("idx_expires_at", "expires_at"),
        {"comment": "请求签名中用过的随机数", **TABLE_OPTIONS},
    )
