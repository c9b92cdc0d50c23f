# SPDX-License-Identifier: GPL-2.0-only
"""What servers answer now for sources that could not be fetched. Without credentials, only the start of an answer, and no server on
a private address: with such a one, whoever writes a recipe could find out what is in this network.

For Python 3.5 and newer, as smidr.py.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from bb.ui.smidr import ENV

TIMEOUT = 5  # seconds, for all of them
ASKED = 5  # URLs
TEXT = 200  # characters of a reason
NO_HEAD = (405, 501)  # a server that knows no HEAD


def proxy_of(scheme):
    name = "%s_proxy" % scheme
    return ENV.get(name) or ENV.get(name.upper())


def refusal(parts):
    """Why a server is not asked, unless its addresses are those of the internet. A proxy may know names that are unknown here."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return None if proxy_of(parts.scheme) else "unknown"
    return None if all(ipaddress.ip_address(one.split("%")[0]).is_global for one in found) else "private"


class Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if refusal(urllib.parse.urlsplit(newurl)) == "private":
            return None
        return urllib.request.Request(newurl, headers=req.headers, method="HEAD")


def address(url):
    """What is asked over HTTP for a source, as BitBake writes it; none where nothing can be asked so."""
    bare, *rest = url.split(";")
    parameters = dict(word.split("=", 1) for word in rest if "=" in word)
    parts = urllib.parse.urlsplit(bare)
    if parts.username or parts.password or not parts.hostname:
        return None
    if parts.scheme in ("git", "gitsm") and parameters.get("protocol") in ("http", "https"):
        path = "%s/info/refs" % parts.path.rstrip("/")
        return urllib.parse.urlunsplit((parameters["protocol"], parts.netloc, path, "service=git-upload-pack", ""))
    return urllib.parse.urlunsplit(parts) if parts.scheme in ("http", "https") else None


def answer(url):
    """The status that a server answers with, and its words; or why it answers nothing. None where it was not asked."""
    asked = address(url)
    refused = asked and refusal(urllib.parse.urlsplit(asked))
    if not asked or refused == "private":
        return None
    if refused == "unknown":
        return {"text": "its name is unknown"}
    proxies = {scheme: proxy_of(scheme) for scheme in ("http", "https") if proxy_of(scheme)}
    tls = ssl.create_default_context(cafile=ENV.get("SSL_CERT_FILE") or None)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=tls), Redirects)
    try:
        status = opener.open(urllib.request.Request(asked, method="HEAD"), timeout=TIMEOUT).status
    except urllib.error.HTTPError as told:
        status = told.code
    except urllib.error.URLError as problem:
        return {"text": str(problem.reason)[:TEXT]}
    except (OSError, http.client.HTTPException, ValueError) as problem:
        return {"text": (str(problem) or type(problem).__name__)[:TEXT]}
    if status in NO_HEAD:
        return None
    return {"status": status, "text": http.client.responses.get(status, "")}


def answers(urls):
    """The answers that came in time, by URL."""
    told = {}
    urls = list(dict.fromkeys(urls))[:ASKED]

    def ask(url):
        told[url] = {"text": "nothing in %d seconds" % TIMEOUT}
        told[url] = answer(url)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    until = time.monotonic() + TIMEOUT
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return [(url, told[url]) for url in urls if told.get(url)]
