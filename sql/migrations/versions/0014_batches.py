"""Batches at a provider, the priority of tasks, and jobs: tasks of one album."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import add_column, create_index, create_table, drop_index
from app.database.tables.columns import (
    Milliseconds,
    TinyInteger,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    current_timestamp,
)

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "inference_job",
        sa.Column("id", sa.String(32), primary_key=True, comment="任务组ID"),
        _of("users", "user_id", "用户"),
        sa.Column("model_name", sa.String(100), nullable=False, comment="所要的模型"),
        sa.Column("priority", TinyUnsignedInteger, nullable=False, comment="优先级(1-任务组 2-可等待)"),
        sa.Column(
            "cancelled", TinyInteger, nullable=False, server_default=sa.text("'0'"), comment="是否已取消(0-否 1-是)"
        ),
        sa.Column("created_at", sa.DateTime, nullable=False, server_default=current_timestamp(), comment="创建时间"),
        comment="异步推理任务组",
    )
    create_index("inference_job", "idx_user_id", "user_id", "created_at")
    create_index("inference_job", "idx_created_at", "created_at")
    priority = sa.Column(
        "priority",
        TinyUnsignedInteger,
        nullable=False,
        server_default=sa.text("'0'"),
        comment="优先级(0-单个 1-任务组 2-可等待 3-批次中)",
    )
    add_column("inference_task", priority)
    add_column("inference_task", sa.Column("batch_item", sa.String(32), comment="模型批次中的请求ID"))
    add_column("inference_task", sa.Column("job_id", sa.String(32), comment="任务组ID"))
    create_index("inference_task", "idx_queue", "status", "priority", "due_at")
    create_index("inference_task", "idx_batch_item", "batch_item")
    create_index("inference_task", "idx_job_id", "job_id", "status")
    drop_index("inference_task", "idx_status")
    create_table(
        "model_batch",
        sa.Column("id", sa.String(32), primary_key=True, comment="批次ID"),
        sa.Column("provider", sa.String(100), nullable=False, comment="服务商"),
        sa.Column("model", sa.String(255), nullable=False, comment="模型"),
        sa.Column("status", sa.String(16), nullable=False, comment="状态"),
        sa.Column("provider_batch_id", sa.String(255), comment="服务商的批次ID"),
        sa.Column("photos", UnsignedInteger, nullable=False, comment="图片数"),
        _micros("reserved_micros", "预留费用(CURRENCY的百万分之一)"),
        sa.Column("owner", sa.String(64), comment="处理进程"),
        sa.Column("due_at", Milliseconds, nullable=False, comment="下一步的时间"),
        sa.Column("steps", UnsignedInteger, nullable=False, server_default=sa.text("'0'"), comment="当前状态下的步数"),
        sa.Column("submitting_at", sa.DateTime, comment="开始提交的时间"),
        sa.Column("deadline_at", Milliseconds, nullable=False, comment="截止时间"),
        sa.Column("error_code", sa.String(64), comment="错误码"),
        sa.Column("created_at", sa.DateTime, nullable=False, comment="创建时间"),
        sa.Column("updated_at", sa.DateTime, nullable=False, comment="修改时间"),
        comment="模型批次",
    )
    create_index("model_batch", "idx_status", "status", "due_at")
    create_index("model_batch", "idx_reserved_micros", "reserved_micros")
    create_index("model_batch", "idx_updated_at", "updated_at")
    create_table(
        "model_batch_item",
        sa.Column("id", sa.String(32), primary_key=True, comment="请求ID(custom_id)"),
        sa.Column(
            "batch_id",
            sa.String(32),
            sa.ForeignKey("model_batch.id", ondelete="CASCADE"),
            nullable=False,
            comment="批次ID",
        ),
        _of("users", "user_id", "用户"),
        _of("library_image", "image_id", "图片"),
        sa.Column("image_hash", sa.String(64), nullable=False, comment="SHA-256哈希值"),
        sa.Column("outcome", sa.String(16), comment="结果: answered, invalid, refused, failed"),
        sa.Column("error_code", sa.String(64), comment="错误码"),
        sa.Column("answer", sa.JSON, comment="模型的回答"),
        _micros("cost_micros", "费用(CURRENCY的百万分之一)"),
        comment="模型批次中的图片",
    )
    create_index("model_batch_item", "idx_batch_id", "batch_id")
    create_index("model_batch_item", "idx_user_id", "user_id")
    create_index("model_batch_item", "idx_image_id", "image_id")


def downgrade() -> None:
    op.drop_table("model_batch_item")
    op.drop_table("model_batch")
    create_index("inference_task", "idx_status", "status", "due_at")
    for name in ("idx_queue", "idx_batch_item", "idx_job_id"):
        drop_index("inference_task", name)
    for column in ("priority", "batch_item", "job_id"):
        op.drop_column("inference_task", column)
    op.drop_table("inference_job")


def _of(table: str, column: str, comment: str) -> sa.Column[int]:
    owner = sa.ForeignKey(f"{table}.id", ondelete="CASCADE")
    return sa.Column(column, UnsignedBigInteger, owner, nullable=False, comment=comment)


def _micros(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, UnsignedBigInteger, nullable=False, server_default=sa.text("'0'"), comment=comment)
