"""Configs in files: YAML, TOML and JSON, whole or a section of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nemo_prefect.cli.suggest import did_you_mean
from nemo_prefect.errors import ArgumentValueError

FORMATS = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def dumps(data: Any, format: str) -> str:
    """Plain data as text.

    Args:
        data: mappings, lists and scalars.
        format: ``yaml``, ``toml`` or ``json``.
    """
    if format == "yaml":
        import yaml

        return str(yaml.safe_dump(data, sort_keys=True, allow_unicode=True))
    if format == "toml":
        import tomlkit

        return tomlkit.dumps(_without_none(data))
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def loads(text: str, format: str) -> Any:
    """The plain data in `text`.

    Raises:
        ArgumentValueError: it is not of that format.
    """
    try:
        if format == "yaml":
            import yaml

            return yaml.safe_load(text)
        if format == "toml":
            import tomlkit

            return _with_none(tomlkit.parse(text).unwrap())
        return json.loads(text)
    except Exception as error:
        if isinstance(error, (KeyboardInterrupt, ImportError)):
            raise
        raise ArgumentValueError(f"This is no {format.upper()}: {' '.join(str(error).split())}.") from error


def _without_none(data: Any) -> Any:
    if data is None:
        return {"_none_": True}  # TOML has no null
    if isinstance(data, dict):
        return {k: _without_none(v) for k, v in data.items()}
    return [_without_none(v) for v in data] if isinstance(data, list) else data


def _with_none(data: Any) -> Any:
    if data == {"_none_": True}:
        return None
    if isinstance(data, dict):
        return {k: _with_none(v) for k, v in data.items()}
    return [_with_none(v) for v in data] if isinstance(data, list) else data


def split_section(where: str | Path) -> tuple[Path, str]:
    """``PATH[:section]`` as the path, with ``~`` expanded, and the section (``model.optimizer``), which may be empty."""
    text = str(where).removeprefix("@")
    path, colon, section = text.rpartition(":")
    if not colon or "/" in section or not section or Path(text).is_file():
        path, section = text, ""
    return Path(path).expanduser(), section


def format_of(path: Path, format: str | None = None) -> str:
    """The format that a file's ending names.

    Raises:
        ArgumentValueError: it names none.
    """
    found = format or FORMATS.get(path.suffix.lower())
    if found is None or found not in FORMATS.values():
        raise ArgumentValueError(
            f"{path} has no ending that says what is in it.", str(path), hint="Use .yaml, .yml, .toml or .json."
        )
    return found


def section_of(data: Any, section: str, where: str) -> Any:
    """The part of `data` that the dotted path `section` names; all of it where that is empty.

    Raises:
        ArgumentValueError: there is no such part.
    """
    for step in section.split(".") if section else []:
        if not isinstance(data, dict) or step not in data:
            raise ArgumentValueError(
                f"{where} has no section {step!r}.", where, hint=did_you_mean(step, data if isinstance(data, dict) else ())
            )
        data = data[step]
    return data


def read_file(where: str | Path, format: str | None = None) -> Any:
    """The plain data in the file ``PATH[:section]``, of the format that its ending names, or of the one given.

    Raises:
        ArgumentValueError: there is no such file or section, or its text is not of its format.
    """
    path, section = split_section(where)
    format = format_of(path, format)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentValueError(
            f"The file {path} cannot be read: {getattr(error, 'strerror', None) or error}.", str(where), hint=_near(path)
        ) from error
    return section_of(loads(text, format), section, str(path))


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, [p.name for p in path.parent.iterdir() if p.suffix.lower() in FORMATS])
    except OSError:
        return ""


class ConfigSerializer:
    """Configs (`run.Config`, `run.Partial`) as YAML, TOML and JSON, in text and in files. A file's format is the one that
    its ending names; ``PATH:section`` names a part of it."""

    def _serialize(self, cfg: Any, format: str, stream: Any) -> str:
        from nemo_prefect.serialization import to_data

        text = dumps(to_data(cfg), format)
        if stream is not None:
            stream.write(text)
        return text

    def _deserialize(self, text: str, format: str) -> Any:
        from nemo_prefect.serialization import from_data

        return from_data(loads(text, format))

    def serialize_yaml(self, cfg: Any, stream: Any = None) -> str:
        """`cfg` as YAML, written to `stream` as well where one is given."""
        return self._serialize(cfg, "yaml", stream)

    def serialize_toml(self, cfg: Any, stream: Any = None) -> str:
        """`cfg` as TOML, written to `stream` as well where one is given."""
        return self._serialize(cfg, "toml", stream)

    def serialize_json(self, cfg: Any, stream: Any = None) -> str:
        """`cfg` as JSON, written to `stream` as well where one is given."""
        return self._serialize(cfg, "json", stream)

    def deserialize_yaml(self, serialized: str) -> Any:
        """The config in this YAML."""
        return self._deserialize(serialized, "yaml")

    def deserialize_toml(self, serialized: str) -> Any:
        """The config in this TOML."""
        return self._deserialize(serialized, "toml")

    def deserialize_json(self, serialized: str) -> Any:
        """The config in this JSON."""
        return self._deserialize(serialized, "json")

    def dump(self, cfg: Any, output_path: str | Path, format: str | None = None) -> None:
        """Write `cfg`, or with ``PATH:section`` that part of it, to a file.

        Raises:
            SerializationError: a value in it cannot be written down as data.
            ArgumentValueError: the file's ending names no format, or `cfg` has no such section.
        """
        from nemo_prefect.serialization import to_data

        path, section = split_section(output_path)
        self.dump_dict(to_data(cfg), path, format, section)

    def dump_yaml(self, cfg: Any, output_path: str | Path) -> None:
        """Write `cfg` to a file as YAML, whatever its ending."""
        self.dump(cfg, output_path, "yaml")

    def dump_toml(self, cfg: Any, output_path: str | Path) -> None:
        """Write `cfg` to a file as TOML, whatever its ending."""
        self.dump(cfg, output_path, "toml")

    def dump_json(self, cfg: Any, output_path: str | Path) -> None:
        """Write `cfg` to a file as JSON, whatever its ending."""
        self.dump(cfg, output_path, "json")

    def load(self, input_path: str | Path) -> Any:
        """The config in the file ``PATH[:section]``."""
        from nemo_prefect.serialization import from_data

        return from_data(read_file(input_path))

    def load_yaml(self, input_path: str | Path) -> Any:
        """The config in a file of YAML, whatever its ending."""
        from nemo_prefect.serialization import from_data

        return from_data(read_file(input_path, "yaml"))

    def load_toml(self, input_path: str | Path) -> Any:
        """The config in a file of TOML, whatever its ending."""
        from nemo_prefect.serialization import from_data

        return from_data(read_file(input_path, "toml"))

    def load_json(self, input_path: str | Path) -> Any:
        """The config in a file of JSON, whatever its ending."""
        from nemo_prefect.serialization import from_data

        return from_data(read_file(input_path, "json"))

    def load_dict(self, input_path: str | Path) -> Any:
        """The plain data in the file ``PATH[:section]``."""
        return read_file(input_path)

    def dump_dict(self, data: Any, output_path: str | Path, format: str | None = None, section: str | None = None) -> None:
        """Write plain data, or the `section` of it, to a file; ``-`` is stdout.

        Raises:
            ArgumentValueError: there is no such section, the ending names no format, or the file cannot be written.
        """
        path = Path(output_path).expanduser()
        text = dumps(section_of(data, section or "", "The configuration"), format_of(path, format))
        if str(path) == "-":
            sys.stdout.write(text)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ArgumentValueError(f"{path} cannot be written: {error.strerror}.", str(output_path)) from error
