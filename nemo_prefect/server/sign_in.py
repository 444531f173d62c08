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

#: Says that a browser was signed in once. Holds nothing: it only spares those that were the way through this page.
COOKIE = "nemo-prefect-signed-in"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title><link rel="icon" href="data:,">
<style>body { font: 16px/1.5 sans-serif; margin: 4em auto; max-width: 36em; padding: 0 1em; color-scheme: light dark }
code { background: #8882; padding: .1em .3em }</style>
<div id="said">Signing in…</div>
<template id="help"><h1>Sign in</h1><p>This Prefect server belongs to the user who started it. In that user's terminal,
<code>nemo-prefect experiment open TITLE</code> or <code>nemo-prefect server start</code> makes a link that signs in.</p>
<p>Links are good for a day.</p></template>
<script>
const next = new URL(new URLSearchParams(location.search).get("next") || "/", location.origin);
const target = next.origin === location.origin ? next.pathname + next.search : "/";
addEventListener("hashchange", () => location.reload());  // a link pasted here changes only the key
fetch(location.pathname, {method: "POST", body: location.hash.slice(1)}).then(async answer => {
  if (answer.ok) { localStorage.setItem("prefect-password", await answer.text()); }
  if (answer.ok || localStorage.getItem("prefect-password")) {
    document.cookie = "COOKIE=1; path=/; max-age=31536000; SameSite=Strict";
    location.replace(target);
  } else {
    document.getElementById("said").replaceChildren(document.getElementById("help").content);
  }
});
</script></html>""".replace("COOKIE", COOKIE)


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
