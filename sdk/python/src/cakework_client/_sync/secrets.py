"""Made of _async/secrets.py by generate_sync.py; edit that.

Calls about secrets."""

from collections.abc import Generator
from typing import Unpack

from cakework_client._sync.transport import Transport
from cakework_client.calls import Options, segment
from cakework_client.models import Secret, SecretDeleted, SecretPage
from cakework_client.wire import given


class Secrets(Transport):
    """Calls about secrets: of the account, of an end user, of a function; values go in alone."""

    def put_secret(
        self,
        name: str,
        value: str,
        *,
        shared: bool | None = None,
        function_id: str | None = None,
        user_id: str | None = None,
        **options: Unpack[Options],
    ) -> Secret:
        """Keep a secret, in the place of one of its name in the same scope.

        Args:
            name: Upper-case letters, digits and underscores.
            value: What it is; no call answers it.
            shared: Whether end users' functions may have it too, where it is the account's.
            function_id: Only for this function.
            user_id: Only for this end user's functions.
            options: ``timeout``.
        """
        params = given(function_id=function_id, user_id=user_id)
        body = given(value=value, shared=shared)
        return self._call(Secret, "PUT", _path(name), options, params=params, body=body)

    def list_secrets(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> SecretPage:
        """Return a page of secrets, without values; see :meth:`iter_secrets` for all of them."""
        params = given(function_id=function_id, user_id=user_id, pagination=pagination)
        return self._call(SecretPage, "GET", "/v1/secrets", options, params=params)

    def iter_secrets(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        **options: Unpack[Options],
    ) -> Generator[Secret]:
        """Yield all secrets of a scope, without values; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_secrets(
                function_id=function_id, user_id=user_id, pagination=pagination, **options
            )
            yield from page.secrets
            pagination = page.pagination
            if pagination is None:
                return

    def delete_secret(
        self,
        name: str,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        **options: Unpack[Options],
    ) -> SecretDeleted:
        """Remove a secret of a scope; instances that were given it are replaced."""
        params = given(function_id=function_id, user_id=user_id)
        return self._call(SecretDeleted, "DELETE", _path(name), options, params=params)


def _path(name: str) -> str:
    return f"/v1/secrets/{segment(name)}"
