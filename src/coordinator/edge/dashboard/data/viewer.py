"""The person before a page, and what they may see and do.

A client sees its own jobs only. A viewer reads everything. An operator acts on jobs and miners as well, and
an admin may do all.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import ACTS_ON_ALL, READS_ALL, Principal, Role


@dataclass(frozen=True, slots=True)
class Viewer:
    """A principal that reads pages."""

    name: str
    role: Role

    @classmethod
    def of(cls, principal: Principal) -> Viewer:
        """The viewer with this principal's name and role."""
        return cls(principal.name, principal.role)

    @property
    def principal(self) -> Principal:
        """The sender of the viewer's commands."""
        return Principal(self.name, self.role)

    @property
    def sees_all(self) -> bool:
        """Whether it may read every job and every miner."""
        return self.role in READS_ALL

    @property
    def may_operate(self) -> bool:
        """Whether it may act on other people's jobs and on miners."""
        return self.role in ACTS_ON_ALL

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    @property
    def client(self) -> str | None:
        """The only client whose jobs it may see; None for all. Raises Refusal if it may see no jobs."""
        if self.sees_all:
            return None
        if self.role is not Role.CLIENT:
            raise self._forbidden("see jobs")
        return self.name

    def may_change_job_of(self, client: str) -> bool:
        """Whether it may cancel this client's jobs, or submit them again."""
        return self.may_operate or (self.role is Role.CLIENT and self.name == client)

    def require_all(self, what: str) -> None:
        """Raises Refusal unless it may read everything. `what` follows "can't"."""
        if not self.sees_all:
            raise self._forbidden(what)

    def require_operator(self, what: str) -> None:
        """Raises Refusal unless it may act on other people's jobs and on miners."""
        if not self.may_operate:
            raise self._forbidden(what)

    def require_admin(self, what: str) -> None:
        """Raises Refusal unless it is an admin."""
        if not self.is_admin:
            raise self._forbidden(what)

    def _forbidden(self, what: str) -> Refusal:
        return Refusal(Code.FORBIDDEN, f"a {self.role.value} key can't {what}")
