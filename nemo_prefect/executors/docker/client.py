"""Talking to a Docker engine: connecting, what its errors mean, getting images."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nemo_prefect.errors import ConfigError, ExecutorError, SubmissionError, UnreachableError

if TYPE_CHECKING:
    from docker import DockerClient

logger = logging.getLogger("nemo_prefect")

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
#: Seconds between two lines about the progress of a pull.
PROGRESS_INTERVAL = 5.0
#: How often a pull is tried that failed for a passing reason.
PULLS = 3
_PASSING = re.compile(
    r"timeout|timed out|temporar|connection reset|unexpected EOF|toomanyrequests|\b50[0234]\b", re.IGNORECASE
)


def address(host: Any) -> str:
    """Where the engine is, as far as that is known without asking anybody.

    Args:
        host: a ``DockerHost`` block, or None for the engine that ``DOCKER_HOST`` names.
    """
    return (host.base_url if host is not None else None) or os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET


def connect(host: Any) -> DockerClient:
    """A client of the engine, to be closed by the caller.

    Args:
        host: as in `address`.

    Raises:
        UnreachableError: the engine does not answer.
        ConfigError: the Docker client is not installed.
    """
    try:
        import docker
    except ImportError as error:
        raise ConfigError("The Docker client is not installed.", hint="pip install 'nemo-prefect[docker]'") from error
    where = address(host)
    try:
        with talking(f"The Docker engine at {where} does not answer"):
            if where.startswith("unix://"):
                # The client says in many words what this says in one, and leaves the socket open.
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.connect(where.removeprefix("unix://"))
            client: DockerClient = host.get_client() if host is not None else docker.from_env(version="auto")
    except ExecutorError as error:
        forbidden = isinstance(error.__cause__, PermissionError)
        raise UnreachableError(error.message, hint=error.hint, transient=not forbidden) from error
    return client


@contextmanager
def talking(what: str) -> Iterator[None]:
    """Turn what the client raises into errors of ours.

    Args:
        what: what did not work, the start of a sentence.

    Raises:
        ExecutorError: with the engine's own words.
    """
    import docker.errors
    import requests
    import urllib3

    try:
        yield
    except docker.errors.APIError as error:
        passing = error.status_code is None or error.is_server_error()
        raise ExecutorError(f"{what}: {words(error)}", transient=passing) from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise ExecutorError(f"{what}: {words(error)}", hint=_hint(str(error)), transient=True) from error


def words(error: Exception) -> str:
    """What the engine (or the client) said, as one sentence."""
    said = str(getattr(error, "explanation", None) or getattr(error, "strerror", None) or error).strip()
    if found := re.search(r"(PermissionError|FileNotFoundError|ConnectionRefusedError)\(\d+, '([^']*)'\)", said):
        said = found[2]
    return said if said.endswith((".", "!", "?")) else f"{said}."


def _hint(said: str) -> str:
    if "Permission denied" in said or "PermissionError" in said:
        return "Join the group that may use its socket (usually `docker`), or name another engine in docker_host."
    return "Is it running? `docker info` shows; docker_host or DOCKER_HOST names another one."


async def in_daemon_thread(call: Callable[..., None], *arguments: Any) -> None:
    """Like `asyncio.to_thread`, for what can take minutes: it takes no place of the pool that polls and cancels need, and
    does not hold up the end of the program."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    context = contextvars.copy_context()

    def tell(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def work() -> None:
        failure: BaseException | None = None
        try:
            context.run(call, *arguments)
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            failure = error
        with suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(tell, failure)

    threading.Thread(target=work, name="docker-pull", daemon=True).start()
    await done


def ensure_image(client: DockerClient, image: str, policy: str, platform: str | None) -> None:
    """Have the image on the engine; the progress of a pull is logged.

    Args:
        client: the engine's.
        image: the image's name, with its tag or digest.
        policy: ``IfNotPresent``, ``Always`` or ``Never``.
        platform: such as ``linux/arm64``, or None for the engine's own.

    Raises:
        SubmissionError: there is no such image, in the words of the engine or the registry.
    """
    import docker.errors

    if policy != "Always":
        try:
            with talking(f"Whether there is an image {image} cannot be asked"):
                client.images.get(image)
            return
        except ExecutorError as error:
            if not isinstance(error.__cause__, docker.errors.ImageNotFound):
                raise
            if policy == "Never":
                raise SubmissionError(
                    f"The engine has no image {image!r}, and image_pull_policy is Never.",
                    hint="Build or load it there, or let it be pulled.",
                ) from None
    for attempt in range(1, PULLS + 1):
        try:
            _pull(client, image, platform)
            return
        except ExecutorError as error:
            if attempt == PULLS or not _PASSING.search(error.message):
                raise SubmissionError(
                    f"The image {image!r} cannot be pulled: {error.message}",
                    hint="Check its name; a private registry needs registry_credentials.",
                ) from error
            logger.warning("Pulling %s failed (%s). Trying again.", image, error.message)
            time.sleep(2.0**attempt)


def _pull(client: DockerClient, image: str, platform: str | None) -> None:
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(image)
    layers: dict[str, tuple[int, int]] = {}
    began = told = time.monotonic()
    logger.info("Pulling %s.", image)
    with talking("The registry refuses"):
        for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True, platform=platform):
            if "error" in event:
                raise ExecutorError(str(event["error"]).strip())
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                layers[event["id"]] = (detail["current"], detail["total"])
            elif event.get("status") == "Download complete" and event.get("id") in layers:
                layers[event["id"]] = (layers[event["id"]][1],) * 2
            if layers and time.monotonic() - told > PROGRESS_INTERVAL:
                told = time.monotonic()
                done, total = (sum(part) / 1e6 for part in zip(*layers.values(), strict=True))
                logger.info("Pulling %s: %.0f of %.0f MB.", image, done, total)
    logger.info("Pulled %s in %.0f seconds.", image, time.monotonic() - began)
