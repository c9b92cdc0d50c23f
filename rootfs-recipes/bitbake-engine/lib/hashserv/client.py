# SPDX-License-Identifier: GPL-2.0-only
"""Clients of the hash equivalence service: each refuses to be made, see hashserv."""

from . import refuse


class Client:
    def __init__(self, *_args, **_options):
        refuse("a client")


class AsyncClient(Client):
    pass


class ClientPool(Client):
    pass
