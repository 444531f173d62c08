"""The one door for reading: status, logs, cancel, by experiment id, from any process.

Where the experiment's directory is visible, its ledger and exit records are the truth, and what has not ended is asked of
its executor; elsewhere the Prefect server tells what the driver last told it.
"""

from nemo_prefect.history.catalog import ids, ids_on_disk, open_history, titles
from nemo_prefect.history.local import LocalHistory
from nemo_prefect.history.server import ServerHistory
from nemo_prefect.history.view import JobView

__all__ = ["JobView", "LocalHistory", "ServerHistory", "ids", "ids_on_disk", "open_history", "titles"]
