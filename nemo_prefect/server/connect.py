"""One way to the Prefect API for everything in this package: `connected`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nemo_prefect.errors import ServerError
from nemo_prefect.server.embedded import EmbeddedServer, Record
from nemo_prefect.server.sign_in import link


@dataclass(frozen=True)
class Connection:
    """A Prefect server that answers.

    Attributes:
        api_url: the address of its API.
        record: the embedded server's record, or None where the user's own server is meant.
    """

    api_url: str
    record: Record | None = None

    def flow_run_link(self, flow_run_id: object) -> str:
        """The page of a flow run; for the embedded server a link that signs in."""
        path = f"/runs/flow-run/{flow_run_id}"
        if self.record is not None:
            return link(self.record.url, self.record.auth, path)
        return f"{self.ui_url}{path}"

    @property
    def ui_url(self) -> str:
        """The address of its UI."""
        if self.record is not None:
            return self.record.url
        from prefect.settings import get_current_settings

        return str(get_current_settings().ui_url or self.api_url.removesuffix("/api")).rstrip("/")


def connection(*, start: bool = True) -> Connection | None:
    """The server to talk to.

    Args:
        start: start the embedded server where it is meant but does not run; else None is returned for it.

    Raises:
        ServerError: a server that the user named does not answer, or the embedded one does not come up.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if url := settings.api.url:
        _probe(url)
        return Connection(url)
    server = EmbeddedServer(settings.home)
    record = server.start() if start else server.find()
    return Connection(record.api_url, record) if record else None


@contextmanager
def connected(*, start: bool = True) -> Iterator[Connection | None]:
    """Point Prefect's client, in this context, at the server to talk to. Yields what `connection` returns."""
    found = connection(start=start)
    if found is None or found.record is None:
        yield found
        return
    from prefect.context import SettingsContext, get_settings_context
    from pydantic import SecretStr

    # Not Prefect's temporary_settings: that reads and validates all 300 settings anew, which takes as long as a short flow.
    current = get_settings_context()
    settings = current.settings.model_copy(
        update={
            "api": current.settings.api.model_copy(
                update={"url": found.api_url, "auth_string": SecretStr(found.record.auth)}
            ),
            # The embedded server is this very installation, on a machine that may have no way out.
            "client": current.settings.client.model_copy(update={"server_version_check_enabled": False}),
            "server": current.settings.server.model_copy(update={"analytics_enabled": False}),
            "ui_url": found.record.url,
        }
    )
    with SettingsContext(profile=current.profile, settings=settings):
        yield found


def _probe(url: str) -> None:
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10.0, follow_redirects=True)
    except httpx.HTTPError as error:
        raise ServerError(
            f"The Prefect server at {url} does not answer ({error}).",
            hint="Check PREFECT_API_URL and the network, or unset it (prefect config unset PREFECT_API_URL) to use a "
            "server of your own on this machine.",
        ) from error
