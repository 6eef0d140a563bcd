"""What `autotune dashboard` tells its server. It goes through the environment, as a URL or a password on a command line can be
read by every user of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

STORAGE = "AUTOTUNE_STORAGE"
ALLOW_EDIT = "AUTOTUNE_DASHBOARD_ALLOW_EDIT"
PASSWORD = "AUTOTUNE_DASHBOARD_PASSWORD"
USER_HEADER = "AUTOTUNE_DASHBOARD_USER_HEADER"


@dataclass(frozen=True)
class Settings:
    """One server's settings.

    Attributes:
        storage: URL of the store that is shown; empty where none was named.
        allow_edit: whether searches may be started, stopped and resumed, and studies archived.
        password: that every visitor must know; None for none.
        user_header: the request header in which a reverse proxy names who it let in; None without such a proxy.
    """

    storage: str = ""
    allow_edit: bool = False
    password: str | None = None
    user_header: str | None = None

    @classmethod
    def read(cls) -> Settings:
        """Those of this process."""
        given = os.environ
        return cls(
            storage=given.get(STORAGE, ""),
            allow_edit=given.get(ALLOW_EDIT) == "1",
            password=given.get(PASSWORD) or None,
            user_header=given.get(USER_HEADER) or None,
        )

    def variables(self) -> Mapping[str, str]:
        """The environment that `read` reads."""
        return {
            STORAGE: self.storage,
            ALLOW_EDIT: "1" if self.allow_edit else "0",
            PASSWORD: self.password or "",
            USER_HEADER: self.user_header or "",
        }
