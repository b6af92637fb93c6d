"""Authentication by API key, and what the scopes of a key allow."""

from __future__ import annotations

from clipper.contract.constants import Scope
from clipper_platform.control.access.keyring import Keyring, grants
from clipper_platform.errors import Forbidden, Unauthenticated
from clipper_platform.store.base import Key

__all__ = ["Access"]


class Access:
    """`open_invoke`: functions answer without a key, as on a loopback bind."""

    def __init__(self, keyring: Keyring, *, open_invoke: bool) -> None:
        self._keyring = keyring
        self.open_invoke = open_invoke

    def identify(self, authorization: str | None) -> Key:
        """The key in `Authorization: Bearer KEY`. Raises Unauthenticated."""
        if authorization is None:
            raise Unauthenticated(
                "a key is needed: send `Authorization: Bearer KEY`; on the platform's machine the key is in the file "
                "`api_key` of its home directory"
            )
        scheme, _, secret = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("the Authorization header must be `Bearer KEY`")
        key = self._keyring.find(secret.strip())
        if key is None:
            raise Unauthenticated("this key is not known, or it was revoked")
        return key

    def require(self, authorization: str | None, scope: Scope) -> Key:
        """Raises Unauthenticated, or Forbidden when the key's scopes do not include `scope`."""
        key = self.identify(authorization)
        if not grants(key, scope):
            raise Forbidden(f"this needs a key with scope {scope}; {key.name!r} has {', '.join(key.scopes)}")
        return key

    def authorize_invoke(self, authorization: str | None, public: bool) -> None:
        """Return, or raise as `require` does. Takes one comparison where functions are open or `public`, else one hash,
        about a microsecond."""
        if not (self.open_invoke or public):
            self.require(authorization, "invoke")
