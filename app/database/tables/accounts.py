"""Accounts and their failed log-ins.

Names that must be unique are compared by a key of our own making (a `_key` column), so that every database agrees on
what is the same.
"""

from datetime import datetime

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import (
    ACCOUNT_OPTIONS,
    Base,
    Milliseconds,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
    comparison_key,
    current_timestamp,
)


class User(Base):
    """One account. A token counts only while it has the account's `token_generation`."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    username: Mapped[str] = mapped_column(String(64), comment="用户名")
    username_key: Mapped[str] = mapped_column(comparison_key(64), comment="用户名(比较用)")
    email: Mapped[str] = mapped_column(String(254), comment="邮箱")
    email_key: Mapped[str] = mapped_column(comparison_key(254), comment="邮箱(比较用)")
    password_hash: Mapped[str] = mapped_column(String(255), comment="密码哈希(Argon2)")
    token_generation: Mapped[int] = mapped_column(
        UnsignedInteger, server_default=text("'0'"), comment="令牌代数(改密码后旧令牌失效)"
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="创建时间")
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=current_timestamp(), comment="修改时间")
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="停用时间(空为可用)")

    __table_args__ = (
        Index("uk_username_key", "username_key", unique=True),
        Index("uk_email_key", "email_key", unique=True),
        {"comment": "用户", **ACCOUNT_OPTIONS},
    )


class LoginFailure(Base):
    """Failed log-ins in a row of one account or from one address; `subject` is a hash, so it names no person."""

    __tablename__ = "login_failure"

    subject: Mapped[str] = mapped_column(String(64), primary_key=True, comment="账号或地址的SHA-256")
    failures: Mapped[int] = mapped_column(UnsignedInteger, comment="连续失败次数")
    last_failure_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最后失败时间")

    __table_args__ = (
        Index("idx_last_failure_at", "last_failure_at"),
        {"comment": "登录失败记录", **ACCOUNT_OPTIONS},
    )
