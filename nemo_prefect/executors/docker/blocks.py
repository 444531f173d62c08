"""prefect-docker's blocks in fields, without importing it until one is used."""

from __future__ import annotations

from typing import Annotated, Any

from prefect.blocks.core import Block
from pydantic import BeforeValidator, WithJsonSchema

from nemo_prefect.errors import ConfigError

_CLASSES = {"docker-host": "DockerHost", "docker-registry-credentials": "DockerRegistryCredentials"}


def _read(slug: str) -> Any:
    def read(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str) and value:
            kind, _, name = value.rpartition("/")
            if kind not in ("", slug) or not name:
                raise ConfigError(f"{value!r} is no {slug} block.", hint=f"Write {slug}/NAME, or pass a {_CLASSES[slug]}.")
            return f"{slug}/{name}"
        if isinstance(value, Block) and type(value).get_block_type_slug() == slug:
            # A saved block travels as its name: whoever runs the job loads it, and its secrets stay on the server.
            saved = value._block_document_name
            return f"{slug}/{saved}" if saved else value
        if isinstance(value, dict):
            import prefect_docker

            fields = {k: v for k, v in value.items() if k != "block_type_slug" and not k.startswith("_")}
            return getattr(prefect_docker, _CLASSES[slug]).model_validate(fields)
        raise ConfigError(f"{value!r} is no {_CLASSES[slug]}.", hint=f"Pass one, or the name of a saved one: {slug}/NAME.")

    return read


async def load(value: Any) -> Any:
    """The block that a field holds: itself, or the one that is saved under its name.

    Raises:
        NotFoundError: there is no block of that name.
    """
    if not isinstance(value, str):
        return value
    from nemo_prefect.errors import NotFoundError
    from nemo_prefect.server import connected

    with connected():
        try:
            return await Block.aload(value)
        except ValueError as error:
            raise NotFoundError(
                f"There is no block {value!r}.", hint="List them with `prefect block ls`; save it under that name."
            ) from error


def _field(slug: str) -> Any:
    # In the form of the UI it is the name of a saved block: prefect-docker need not be installed where that is shown.
    return Annotated[Any, BeforeValidator(_read(slug)), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]


HostField = _field("docker-host")
RegistryField = _field("docker-registry-credentials")
