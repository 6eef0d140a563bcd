"""Who made a study, requests to stop it, what its store took; what trials printed; an index for counting trials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from autotune.store.models import LONG_TEXT, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NEW = ("owner", "archived_at", "stop_requested_at", "stop_requested_by", "store_s")


def upgrade() -> None:
    op.add_column("studies", sa.Column("owner", sa.String(length=255), nullable=True))
    op.add_column("studies", sa.Column("archived_at", UtcDateTime(), nullable=True))
    op.add_column("studies", sa.Column("stop_requested_at", UtcDateTime(), nullable=True))
    op.add_column("studies", sa.Column("stop_requested_by", sa.String(length=255), nullable=True))
    op.add_column("studies", sa.Column("store_s", sa.Double(), nullable=True))
    op.create_index(
        op.f("ix_trials_study_id_state_failure_kind_fidelity"),
        "trials",
        ["study_id", "state", "failure_kind", "fidelity"],
        unique=False,
    )
    op.create_table(
        "logs",
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("text", LONG_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_logs_trial_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_logs")),
    )


def downgrade() -> None:
    op.drop_table("logs")
    op.drop_index(op.f("ix_trials_study_id_state_failure_kind_fidelity"), table_name="trials")
    for name in reversed(_NEW):
        op.drop_column("studies", name)
