"""The detached runner: ``python -m nemo_prefect.runner DIRECTORY`` drives the experiment there until it ends.

It says ``ready`` on its standard output once it owns the experiment, and nothing after.
"""

from __future__ import annotations

import logging
import os
import sys

from nemo_prefect.layout import Layout
from nemo_prefect.server import connected
from nemo_prefect.session import run_attached


def main(arguments: list[str]) -> int:
    """Drive the experiment; 0 whatever its outcome, which is the flow run's to tell."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("nemo_prefect").addHandler(handler)
    spec = Layout(arguments[0]).read()

    def ready() -> None:
        os.write(sys.stdout.fileno(), b"ready\n")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, sys.stdout.fileno())

    with connected() as connection:
        if connection is not None:
            run_attached(spec, connection, rerun_failed="--rerun-failed" in arguments, on_ready=ready)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
