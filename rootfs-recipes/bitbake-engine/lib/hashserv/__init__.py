# SPDX-License-Identifier: GPL-2.0-only
"""What the cooker asks of the hash equivalence service, answered honestly: there is none in this engine.

A build that does not set BB_HASHSERVE never notices. One that does gets a fatal error that says so.
"""

import re

ABSENT = ('BB_HASHSERVE asks for hash equivalence (%s), but this engine carries no such service: unset BB_HASHSERVE, '
          "or use a BitBake checkout")


def is_valid_unihash(value):
    """A unified hash is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def refuse(address):
    import bb
    bb.fatal(ABSENT % address)


def create_server(addr, dbname, **_options):
    refuse(addr)


def create_client(addr, username=None, password=None):
    refuse(addr)


async def create_async_client(addr, username=None, password=None):
    refuse(addr)
