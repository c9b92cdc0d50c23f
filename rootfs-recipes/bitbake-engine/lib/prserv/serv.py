# SPDX-License-Identifier: GPL-2.0-only
"""What the cooker asks of a PR service, answered honestly: there is none in this engine.

A build that does not set PRSERV_HOST never notices. One that does is stopped before it parses.
"""

import logging

logger = logging.getLogger("BitBake.PRserv")

ABSENT = ('PRSERV_HOST is set to "%s", but this engine carries no PR service: unset PRSERV_HOST, '
          "or use a BitBake checkout")


class PRServiceConfigError(Exception):
    """The configuration asks for something that cannot be had."""


def auto_start(d):
    host = (d.getVar("PRSERV_HOST") or "").strip()
    if not host:
        return None
    logger.critical(ABSENT, host)
    raise PRServiceConfigError(ABSENT % host)


def auto_shutdown():
    """There is never anything to shut down."""


def connect(host, port):
    raise PRServiceConfigError(ABSENT % ("%s:%s" % (host, port)))


def ping(host, port):
    raise PRServiceConfigError(ABSENT % ("%s:%s" % (host, port)))
