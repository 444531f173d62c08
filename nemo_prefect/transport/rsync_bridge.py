"""What rsync takes for ssh: joins its ends to a socket of the process that holds the SSH connection.

Run as a program, with nothing but the standard library: ``rsync -e "python rsync_bridge.py"`` calls it with the host and the
words of the command to run there.
"""

import os
import socket
import sys
import threading

#: The variable that names the socket.
SOCKET = "NEMO_PREFECT_RSYNC_SOCKET"


def _copy(read, write, end) -> None:  # type: ignore[no-untyped-def]
    while True:
        data = read(1 << 16)
        if not data:
            break
        while data:
            data = data[write(data) :]
    end()


def main() -> None:
    """Join stdin and stdout to the socket."""
    there = socket.socket(socket.AF_UNIX)
    there.connect(os.environ[SOCKET])
    there.sendall("\0".join(sys.argv[2:]).encode() + b"\n")
    up = threading.Thread(
        target=_copy, args=(lambda n: os.read(0, n), there.send, lambda: there.shutdown(socket.SHUT_WR)), daemon=True
    )
    up.start()
    _copy(there.recv, lambda data: os.write(1, data), lambda: None)


if __name__ == "__main__":
    main()
