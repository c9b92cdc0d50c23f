# SPDX-License-Identifier: GPL-2.0-only
"""Starts BitBake with smidr's user interface: `python3 launch.py BITBAKE-ARGS`.

BitBake looks for user interfaces in its own bb.ui package, which is in a read-only checkout or image. So the folder of this file is
added to that package's path, and BitBake's own launcher is run unchanged.

Only this process holds the descriptor for events to smidr. Tasks and recipes that are parsed run as the same user, so it is made
undumpable: then they cannot open files below its /proc/PID, trace it or take its descriptors (ptrace(2),
PR_SET_DUMPABLE in prctl(2)). What it executes, BitBake's server first, is dumpable again, as unshare(2) in tasks needs it.
"""

import ctypes
import os
import runpy
import shutil
import sys

PR_SET_DUMPABLE = 4
if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
    sys.exit("smidr: cannot keep other processes of this build out of its user interface (prctl)")

here = os.path.dirname(os.path.realpath(__file__))
bitbake = shutil.which("bitbake")
if not bitbake:
    sys.exit("smidr: there is no bitbake in PATH (%s); add `bitbake:` or a layer repository that contains it" % os.environ.get("PATH"))

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(bitbake))), "lib"))
import bb.ui  # noqa: E402

bb.ui.__path__.append(here)
sys.argv[0] = bitbake
runpy.run_path(bitbake, run_name="__main__")
