"""Which Prefect server to talk to: the user's, or the embedded one.

Where PREFECT_API_URL is set (in the environment or in the Prefect profile), that server it is. Else one server of our own
runs in the background for this user, on loopback, with SQLite under PREFECT_HOME and a random password, and every process
of the user finds it again.
"""

from nemo_prefect.server.connect import Connection, connected, connection
from nemo_prefect.server.embedded import EmbeddedServer, Record

__all__ = ["Connection", "EmbeddedServer", "Record", "connected", "connection"]
