# SPDX-License-Identifier: GPL-2.0-only
"""Starts BitBake with smidr's user interface: `python3 launch.py -u smidr BITBAKE-ARGS`.

BitBake looks for user interfaces in its own bb.ui package, which is in a read-only checkout or image. So the folder of this file is
added to that package's path, and BitBake's own launcher is run unchanged. With a BitBake that this user interface does not fit, the
launcher is run with BitBake's own one, knotty, and smidr reads its console: this process says so, what BitBake is asked for, and when it has ended.

Only this process holds the descriptor for events to smidr. Tasks and recipes that are parsed run as the same user, so it is made
undumpable: then they cannot open files below its /proc/PID, trace it or take its descriptors (ptrace(2),
PR_SET_DUMPABLE in prctl(2)). What it executes, BitBake's server first, is dumpable again, as unshare(2) in tasks needs it. BitBake
1.46 (dunfell) forks its server without executing anything: a forked process closes the descriptor itself.

For Python 3.5 and newer, which BitBake 1.46 runs on.
"""

import ctypes
import json
import os
import runpy
import shutil
import subprocess
import sys

PR_SET_DUMPABLE = 4
WHY = 500  # characters
FALLBACK = "knotty"


class Descriptor:
    """That of events, if there is one."""

    def __init__(self):
        self.fd = int(os.environ.get("SMIDR_EVENT_FD", "-1"))
        if self.fd >= 0:
            os.set_inheritable(self.fd, False)
        self.fork, os.fork = os.fork, self.fork_without

    def fork_without(self):
        pid = self.fork()
        if pid == 0:
            os.fork = self.fork
            self.close()
        return pid

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)

    def emit(self, e, **fields):
        line = memoryview(json.dumps(dict(fields, e=e), default=str).encode() + b"\n")
        while line and self.fd >= 0:
            line = line[os.write(self.fd, line):]


def asked_for(bitbake):
    """The action that BitBake makes of its command line, as smidr.py tells it; none where that is not known."""
    try:
        from bb.main import BitBakeConfigParameters
        params = BitBakeConfigParameters(bitbake)
        name, *words = params.parseActions()["action"]
        tries = params.options.dry_run or params.options.dump_signatures
        return {"builds": name == "buildTargets" and not tries, "task": words[-1] if name == "buildTargets" else None}
    except Exception:
        return None


def run(bitbake):
    with open(bitbake, "rb") as program:
        first = program.readline()
    if first.startswith(b"#!") and b"python" not in first:  # a wrapper around it
        sys.exit(subprocess.call([bitbake] + sys.argv[1:]))
    runpy.run_path(bitbake, run_name="__main__")


def run_with_fallback(bitbake, descriptor, problem):
    os.environ.pop("SMIDR_EVENT_FD", None)
    why = "%s: %s" % (type(problem).__name__, problem)
    version = getattr(sys.modules.get("bb"), "__version__", None)
    descriptor.emit("no_ui", why=why[:WHY], version=version)
    sys.argv[1:] = [FALLBACK if word == "smidr" and before in ("-u", "--ui") else word
                    for before, word in zip(sys.argv, sys.argv[1:])]
    try:
        action = asked_for(sys.argv)
        if action:
            descriptor.emit("action", **action)
        run(bitbake)
    except SystemExit as end:
        sys.stdout.flush()
        # Anything else is a command line that BitBake does not understand (2), or why it has not begun.
        if end.code in (None, 0, 1):
            descriptor.emit("done", exit=end.code or 0)
        raise


if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
    sys.exit("smidr: cannot keep other processes of this build out of its user interface (prctl)")

here = os.path.dirname(os.path.realpath(__file__))
bitbake = shutil.which("bitbake")
if not bitbake:
    sys.exit("smidr: there is no bitbake in PATH (%s); add `bitbake:` or a layer repository that contains it" % os.environ.get("PATH"))

descriptor = Descriptor()
sys.argv[0] = bitbake
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(bitbake))), "lib"))
try:
    import bb.ui
    if getattr(bb, "__version__", "").startswith("1.") and "BB_ENV_PASSTHROUGH_ADDITIONS" in os.environ:  # called so since 2.0
        os.environ.setdefault("BB_ENV_EXTRAWHITE", os.environ["BB_ENV_PASSTHROUGH_ADDITIONS"])
    bb.ui.__path__.append(here)
    import bb.ui.smidr
except RuntimeError:
    run(bitbake)  # BitBake refuses this Python, and says so
except Exception as problem:
    run_with_fallback(bitbake, descriptor, problem)
else:
    run(bitbake)
