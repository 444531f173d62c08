"""The Kubernetes API, as plain data: requests in, dictionaries out, and every failure as one of our errors.

Objects stay dictionaries: the client's models would cost more to build than the query itself, and drop the fields of
servers newer or older than they are. Who connects, and as whom, is `prefect_kubernetes`' and the client's own work.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import ExecutorError

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient, Configuration

#: Seconds that a request may take; reading a log may take longer, as long as bytes come.
TIMEOUT = 30.0
#: Bytes in one message to a container.
CHUNK = 1 << 16
#: Objects in one page of a list.
PAGE = 500
_INSTALL = "Install it: pip install 'nemo-prefect[kubernetes]'."


class ApiError(ExecutorError):
    """The API server answered with an error.

    Attributes:
        status: the HTTP status, or 0 where no answer came.
        reason: the API's own word for it, such as ``Forbidden``.
    """

    def __init__(self, message: str, *, status: int, reason: str = "", hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint, transient=transient)
        self.status = status
        self.reason = reason


class Api:
    """One connection to an API server."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._host = client.configuration.host or "?"

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None, kind: str = "json"
    ) -> dict[str, Any]:
        """Ask, and return the answer.

        Args:
            method: the HTTP method.
            path: below the server's address.
            query: query parameters.
            body: what to send.
            kind: how `body` is meant: ``json``, or ``merge-patch+json`` for a patch.

        Raises:
            ApiError: the server refused, or did not answer.
        """
        try:
            response = await self._send(method, path, query, body, kind, (10.0, TIMEOUT))
            text = await response.text()
        except ApiError:
            raise
        except Exception as error:
            raise _no_answer(self._host, error) from error
        if not 200 <= response.status <= 299:
            raise _refusal(response.status, text)
        try:
            data: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ApiError(
                f"{self._host} does not answer as a Kubernetes API server does: {text[:100]!r}.",
                status=response.status,
                hint="Check the address in the kubeconfig, and proxies.",
                transient=True,
            ) from error
        return data

    async def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """All objects of a list, page by page. A page that expired meanwhile (410) is an error: nothing is known then."""
        found: list[dict[str, Any]] = []
        more = ""
        while True:
            paging = {"limit": str(PAGE), **({"continue": more} if more else {})}
            page = await self.request("GET", path, query={**query, **paging})
            found += page.get("items") or []
            more = page.get("metadata", {}).get("continue") or ""
            if not more:
                return found

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an answer, as they come.

        Raises:
            ApiError: as in `request`.
        """
        try:
            response = await self._send("GET", path, query, None, "json", (10.0, 60.0))
            if not 200 <= response.status <= 299:
                raise _refusal(response.status, await response.text())
            try:
                yield response.content.iter_chunked(1 << 16)
            finally:
                response.close()
        except (ExecutorError, OSError) as error:
            if isinstance(error, ExecutorError):
                raise
            raise _no_answer(self._host, error) from error
        except Exception as error:
            if _is_of_the_line(error):
                raise _no_answer(self._host, error) from error
            raise

    async def send(self, namespace: str, pod: str, container: str, command: Sequence[str], content: bytes) -> None:
        """Run a command in a container with `content` as its input.

        Raises:
            ApiError: it could not be run, or failed.
        """
        import aiohttp
        from kubernetes_asyncio.stream import WsApiClient

        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
        query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        said, outcome = b"", ""
        try:
            async with WsApiClient(self._client.configuration) as client:
                connecting = await client.call_api(
                    path, "GET", query_params=query, auth_settings=["BearerToken"], _preload_content=False
                )
                async with connecting as socket:
                    for start in range(0, len(content), CHUNK):
                        await socket.send_bytes(b"\0" + content[start : start + CHUNK])
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == b"\3":
                            outcome = message.data[1:].decode()
                        elif message.type is aiohttp.WSMsgType.BINARY:
                            said += message.data[1:]
        except aiohttp.WSServerHandshakeError as error:
            raise _refusal(error.status, json.dumps({"message": f"exec in {pod}: {error.message}"})) from error
        except Exception as error:
            raise _no_answer(self._host, error) from error
        if not outcome or json.loads(outcome).get("status") != "Success":
            raise ApiError(
                f"The command failed in {pod}: {said.decode(errors='replace') or outcome}.", status=0, transient=True
            )

    async def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Any, kind: str, timeout: Any
    ) -> Any:
        headers = {"Accept": "application/json, */*", "Content-Type": f"application/{kind}"}
        return await self._client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=timeout,
        )


def _is_of_the_line(error: Exception) -> bool:
    import aiohttp

    return isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError))


def _no_answer(host: str, error: Exception) -> ApiError:
    import aiohttp

    if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, OSError)):
        refused = isinstance(error, aiohttp.ClientConnectorError)
        return ApiError(
            f"The Kubernetes API server {host} does not answer: {error or type(error).__name__}.",
            status=0,
            reason="Refused" if refused else "",
            hint="Is the cluster up, and the kubeconfig's context the right one?",
            transient=True,
        )
    return ApiError(f"The request to {host} failed: {error!r}.", status=0, hint="Check the credentials.", transient=True)


def _refusal(status: int, text: str) -> ApiError:
    try:
        answer = json.loads(text)
        reason, message = answer.get("reason", ""), answer.get("message", text)
    except (ValueError, AttributeError):
        reason, message = "", text[:500]
    hint = {
        401: "The API server does not accept these credentials.",
        403: "Ask for these permissions; deployments/kubernetes-rbac.yaml lists all that are needed.",
    }.get(status, "")
    return ApiError(
        f"Kubernetes: {message.strip().rstrip('.') or status}.",
        status=status,
        reason=reason,
        hint=hint,
        transient=status in (408, 409, 410, 429) or status >= 500,
    )


@dataclass(frozen=True)
class Connection:
    """Where an executor's API server is, and as whom it is asked.

    Attributes:
        credentials: a Kubernetes Credentials block, the name of a saved one, or None.
        kubeconfig: a kubeconfig file, or "" for the usual ones.
        context: one of its contexts, or "" for the current one.
    """

    credentials: Any = None
    kubeconfig: str = ""
    context: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Api]:
        """Connect.

        Raises:
                ExecutorError: there is no cluster configured, or no client installed.
        """
        try:
            from kubernetes_asyncio import config
            from kubernetes_asyncio.client import ApiClient, Configuration
            from prefect_kubernetes.credentials import KubernetesCredentials
        except ImportError as error:
            raise ExecutorError(f"KubernetesExecutor needs prefect-kubernetes ({error}).", hint=_INSTALL) from error
        configuration = Configuration()
        if self.kubeconfig or self.context:
            await _load_file(configuration, self.kubeconfig, self.context)
            async with ApiClient(configuration=configuration) as client:
                yield Api(client)
            return
        block = self.credentials
        if isinstance(block, str):
            block = await KubernetesCredentials.aload(block.rpartition("/")[2])
        context = (block or KubernetesCredentials()).get_client("core", configuration)
        try:
            core = await context.__aenter__()
        except config.ConfigException as error:
            raise _unconfigured(error) from error
        try:
            yield Api(core.api_client)
        finally:
            await context.__aexit__(None, None, None)

    @property
    def cluster(self) -> str:
        """The API server's address, by which jobs of one cluster are told from another's."""
        if isinstance(self.credentials, str):
            return self.credentials
        if self.credentials is not None and self.credentials.cluster_config is not None:
            known = self.credentials.cluster_config
            return server_of([known.config], known.context_name) or known.context_name
        inside = os.environ.get("KUBERNETES_SERVICE_HOST")
        if inside and not (self.kubeconfig or self.context):
            return inside
        return server_of(_kubeconfigs(self.kubeconfig), self.context) or self.context or "kubernetes"


async def _load_file(configuration: Configuration, path: str, context: str) -> None:
    from kubernetes_asyncio import config

    try:
        await config.load_kube_config(
            config_file=os.path.expanduser(path) or None, context=context or None, client_configuration=configuration
        )
    except (config.ConfigException, OSError) as error:
        raise _unconfigured(error) from error


def _unconfigured(error: Exception) -> ExecutorError:
    return ExecutorError(
        f"There is no Kubernetes cluster to ask: {error}.",
        hint="Set kubeconfig=, context= or credentials= of the executor, or the KUBECONFIG environment variable.",
    )


def _kubeconfigs(path: str) -> list[dict[str, Any]]:
    import yaml

    paths = [path] if path else os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
    found = []
    for name in paths:
        try:
            data = yaml.safe_load(Path(name).expanduser().read_text())
        except (OSError, yaml.YAMLError):
            continue
        if isinstance(data, dict):
            found.append(data)
    return found


def server_of(configs: list[dict[str, Any]], context: str) -> str:
    """The host and port of a context's API server, or "".

    Args:
        configs: kubeconfigs, the first wins.
        context: the context's name, or "" for the current one.
    """

    def named(kind: str, name: str) -> dict[str, Any]:
        entries = [entry for data in configs for entry in data.get(kind) or [] if entry.get("name") == name]
        return dict(entries[0].get(kind[:-1], {})) if entries else {}

    context = context or next((str(data["current-context"]) for data in configs if data.get("current-context")), "")
    server = str(named("clusters", named("contexts", context).get("cluster", "")).get("server", ""))
    return server.rpartition("://")[2].rstrip("/")
