#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Stands for BitBake's commands in a shell beside a running build. BitBake's own client connects to the build's server there and gives up after a
# minute without an answer (bb.server.process), so this waits for BitBake's lock first, and then runs the command of the same name in PATH.
name=${0##*/}
PATH=${PATH#"${0%/*}":}
if command -v flock >/dev/null && ! flock -n "$BUILDDIR/bitbake.lock" true; then
    echo "$name: waiting for the BitBake that runs in this workspace" >&2
    flock "$BUILDDIR/bitbake.lock" true
fi
exec "$name" "$@"
