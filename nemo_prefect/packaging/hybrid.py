"""`HybridPackager`: the archives of several packagers in one."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny

from nemo_prefect.errors import PackagingError
from nemo_prefect.packaging.archive import Members, from_archive, inside, packing, provenance_file, replacing, write
from nemo_prefect.packaging.base import Packager


class HybridPackager(Packager):
    """Packs what other packagers pack, each below a directory of its own, or all at the root, where the last one wins."""

    sub_packagers: dict[str, SerializeAsAny[Packager]] = Field(
        default_factory=dict, description="The packagers, by the directory that their files get in the archive."
    )
    extract_at_root: bool = Field(default=False, description="Put all files at the root, not into directories.")

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Pack what the packagers pack. One that packs nothing adds nothing.

        Args:
            path: the root of the user's code.
            job_dir: the directory to put the archive into.
            name: the archive's name, without an ending.

        Returns:
            The path of ``<job_dir>/<name>.tar.gz``. What the packagers record of their origin is in
            ``<name>.provenance.json``, by directory.

        Raises:
            PackagingError: a packager fails, a directory lies outside the archive, or there is nothing to pack.
        """
        members: Members = {}
        provenance: dict[str, Any] = {}
        with ExitStack() as stack, packing(f"The job's code ({', '.join(map(repr, self.sub_packagers))})"):
            for folder, packager in self.sub_packagers.items():
                part = f".{name}.{uuid.uuid4().hex}"
                record = provenance_file(job_dir, part)
                stack.callback(record.unlink, missing_ok=True)
                archive = packager.package(path, job_dir, part)
                if not archive:
                    continue
                stack.callback(Path(archive).unlink, missing_ok=True)
                prefix = self._prefix(folder)
                members.update({prefix + member: content for member, content in from_archive(archive, stack).items()})
                if record.exists():
                    provenance[folder] = json.loads(record.read_text())
            if provenance:
                with replacing(provenance_file(job_dir, name)) as out:
                    out.write(json.dumps({"sub_packagers": provenance}, indent=1).encode())
            else:
                provenance_file(job_dir, name).unlink(missing_ok=True)
            return write(members, job_dir, name)

    def _prefix(self, folder: str) -> str:
        if self.extract_at_root:
            return ""
        if not (directory := inside(folder)):
            raise PackagingError(
                f"The sub-packager {folder!r} has no directory.", hint="Name it, or set extract_at_root=True."
            )
        return os.path.join(directory, "")
