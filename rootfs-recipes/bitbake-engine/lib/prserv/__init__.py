# SPDX-License-Identifier: GPL-2.0-only
"""Stands in for BitBake's PR service, which this engine does not carry. See prserv.serv."""
