"""Links that open the embedded server's UI signed in.

Prefect's UI asks for the password once and keeps it in the browser. A link made here brings it along: its fragment (which
browsers do not send, so that it reaches no log) holds a key that is good for a while; the page exchanges it for the
password.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote

PATH = "/sign-in"
#: Seconds that a printed link is good for.
LIFETIME = 24 * 3600

PAGE = """<!doctype html><meta charset="utf-8"><title>Signing in…</title>
<body style="font-family: sans-serif; margin: 4em auto; max-width: 36em"><p id="said">Signing in…</p><script>
const next = new URLSearchParams(location.search).get("next") || "/";
const target = next.startsWith("/") && !next.startsWith("//") ? next : "/";
fetch(location.pathname, {method: "POST", body: location.hash.slice(1)}).then(async answer => {
  if (answer.ok) { localStorage.setItem("prefect-password", await answer.text()); }
  if (answer.ok || localStorage.getItem("prefect-password")) { location.replace(target); }
  else { document.getElementById("said").textContent =
    "This link has expired. Make a new one with: nemo-prefect experiment open"; }
});
</script>"""


def link(url: str, auth: str, path: str = "/", lifetime: float = LIFETIME) -> str:
    """A link to `path` of the UI at `url` that signs in and is good for `lifetime` seconds."""
    return f"{url}{PATH}?next={quote(path)}#{make_key(auth, time.time() + lifetime)}"


def make_key(auth: str, expires: float) -> str:
    """A key that `check_key` takes until `expires`, in seconds since 1970."""
    until = str(int(expires))
    return f"{until}.{_digest(auth, until)}"


def check_key(auth: str, key: str) -> bool:
    """Whether `key` was made for this server and has not expired."""
    until, _, digest = key.partition(".")
    return hmac.compare_digest(digest.encode(), _digest(auth, until).encode()) and float(until) > time.time()


def _digest(auth: str, until: str) -> str:
    return hmac.new(auth.encode(), until.encode(), hashlib.sha256).hexdigest()
