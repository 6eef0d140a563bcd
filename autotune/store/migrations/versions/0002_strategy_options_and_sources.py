"""What a study's strategy was set to, and the earlier studies that it learns from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("strategy_options", sa.Text(), nullable=True))
    op.add_column("studies", sa.Column("sources", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("studies", "sources")
    op.drop_column("studies", "strategy_options")
