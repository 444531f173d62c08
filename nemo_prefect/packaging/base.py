"""The packager that packs nothing, and the base of those that do."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from nemo_prefect.polymorphic import Polymorphic


class Packager(Polymorphic):
    """Packs nothing: the job sees the code where it is. Right for jobs on this machine and for shared file systems."""

    debug: bool = Field(default=False, description="Say more about what is packed.")
    symlink_from_remote_dir: str | None = Field(
        default=None, description="A directory on the cluster to link as the job's code, in place of packing any."
    )

    def setup(self) -> None:
        """Called on the job's machine before the code is used."""

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Pack the code below `path`.

        Args:
            path: the root of the user's code.
            job_dir: the directory to put the archive into.
            name: the archive's name, without an ending.

        Returns:
            The path of a ``.tar.gz`` file, or "" where nothing was packed.
        """
        return ""
