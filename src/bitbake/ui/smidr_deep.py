# SPDX-License-Identifier: GPL-2.0-only
"""BitBake UI for `smidr check --deep`: `bitbake -u smidr_deep TARGET…`.

Parses, has BitBake resolve the targets to tasks, and reads the recipes that these need. Runs no task. Goes out, beside the lines
of smidr.py: one `found` for each thing that would fail, and one `looked` with what was looked at. Where SMIDR_ASK is set, git
servers are asked for the branches of sources that are not here, without credentials.
"""

import collections
import concurrent.futures
import json
import os
import re
import subprocess
import time
import urllib.parse

import bb
import bb.fetch2
from bb.ui import smidr, smidr_ask

featureSet = smidr.featureSet

KEPT = 50  # findings of a kind; the others are counted
LISTED = 8  # names in one of them
TEXT = 400  # characters of a text in one
ASKED = 40  # servers are asked for as many branches
ASK_TIMEOUT = 5  # seconds for an answer
ASK_ALL = 60  # seconds for all of them
ASK_AT_ONCE = 8
RECIPES = 5000  # that are read
ROUNDS = 5  # of resolving
APPENDS = "BB_DANGLINGAPPENDS_WARNONLY"
# BitBake 2.12 and newer lack the variable, and OpenEmbedded-Core then calls it an error.
HAS_APPENDS = tuple(map(int, bb.__version__.split(".")[:2])) < (2, 11)
DANGLING = re.compile(r"No recipes in \S+ available for:((?:\n  [^\n]+)+)")
EXCLUDED = "_exclude_incompatible-"  # base.bbclass: a package that INCOMPATIBLE_LICENSE leaves out

GIT_ENV = {
    **smidr.ENV, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent", "LC_ALL": "C",
}


class Recipe:
    """The variables of one recipe, as the server has parsed it."""

    def __init__(self, server, file):
        self.server = server
        handle, problem = server.runCommand(["parseRecipeFile", file, True, None])
        if problem or handle is None:
            raise ValueError(problem or "it cannot be parsed")
        self.index = handle.dsindex

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.runCommand(["dataStoreConnectorRelease", self.index])

    def call(self, method, *args):
        answer, problem = self.server.runCommand(["dataStoreConnectorCmd", self.index, method, args, {}])
        if problem:
            raise ValueError(problem)
        return answer

    def get(self, name):
        return self.call("getVar", name)


class Deep(smidr.Ui):
    def __init__(self, server, events, params, lines):
        super().__init__(server, events, params, lines)
        self.graph = None
        self.counts = collections.Counter()
        self.missing, self.consequences, self.round = {}, {}, {}
        self.errors = []
        self.emit = self.emit_or_keep
        self.lines = lines
        self.found_before = set()
        self.branches = {}
        self.unasked = collections.Counter()
        self.asked = self.here = self.sources = 0
        self.appends_fatal = self.appends_asked = False
        self.masked = []

    # ---- the flow of control

    def emit_or_keep(self, e, **fields):
        """Errors wait for the end of their round."""
        if e == "log" and fields["level"] in ("error", "critical"):
            self.errors.append(fields)
        else:
            self.lines.emit(e, **fields)

    def start_command(self):
        self.params.updateFromServer(self.server)
        return self.resolve()

    def resolve(self):
        targets = self.params.options.pkgs_to_build
        if not targets:
            return self.fail("Nothing to do: name a target, such as an image")
        # Else bbappends without a recipe would be all that is told. Without the variable they are masked.
        if HAS_APPENDS and not self.appends_asked:
            self.appends_asked = True
            self.appends_fatal = (self.variable(APPENDS) or "no").lower() not in ("1", "yes", "true")
        if HAS_APPENDS:
            self.ask("setVariable", APPENDS, "1")
        if self.masked:
            self.ask("setVariable", "BBMASK", " ".join([self.variable("BBMASK") or "", *map(re.escape, self.masked)]))
        task = self.params.options.cmd or self.variable("BB_DEFAULT_TASK") or "build"
        answer, error = self.server.runCommand(["generateDepTreeEvent", targets, task])
        if error or not answer:
            return self.fail("Command 'generateDepTreeEvent' failed: %s" % (error or "returned %s" % answer))
        return True

    def loop(self):
        """BitBake drops a target that lacks something, with all that it needs: so what is missing is then assumed to be there."""
        for left in reversed(range(ROUNDS)):
            self.graph, self.round, masked = None, {}, len(self.masked)
            super().loop()
            roots = {item: told for item, told in self.round.items()
                     if not any(reason.startswith("No eligible ") for reason in told["reasons"])}
            new = [item for item in roots if item not in self.missing]
            self.missing.update({item: roots[item] for item in new})
            self.consequences = {item: told for item, told in self.round.items() if item not in roots}
            if not new and len(self.masked) == masked or not left or self.stopping:
                break
            self.errors = []  # of what could not be resolved
            assumed = ["^%s$" % re.escape(item) for item, _ in self.missing]
            self.params.options.extra_assume_provided = [*(self.params.options.extra_assume_provided or []), *assumed]
            self.params.updateToServer(self.server, os.environ.copy())
            self.running = True
            self.ask("resetCooker")
            super().loop()  # it says so once it is done
            self.running = True
            if self.stopping or not self.resolve():
                break
        if not new:
            self.missing.update(self.consequences)
        for fields in self.errors:
            self.lines.emit("log", **fields)
        self.emit = self.lines.emit
        self.tell_missing()
        if self.graph and not self.stopping:
            self.running = True
            self.look()
            self.running = False

    def on_graph(self, event):
        self.graph = event._depgraph

    def found(self, kind, **fields):
        fields = {name: cut(value) for name, value in fields.items()}
        key = json.dumps([kind, fields], sort_keys=True, default=str)
        if key in self.found_before:
            return
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            self.found_before.add(key)
            self.emit("found", kind=kind, **fields)

    # ---- what BitBake says by itself

    def on_record(self, record):
        dangling = DANGLING.search(record.getMessage())
        if not dangling:
            return super().on_record(record)
        is_fatal = record.levelno >= smidr.Levels.ERROR
        for file in filter(None, map(str.strip, dangling[1].split("\n"))):
            self.found("append", file=file, fatal=is_fatal or self.appends_fatal)
            if is_fatal and file not in self.masked:
                self.masked.append(file)

    def on_no_provider(self, event):
        """BitBake says so in each round of its search, and again of what then cannot be had for that reason."""
        item = (event._item, bool(event._runtime))
        names = [self.recipe_name(name) for name in event._dependees or []]
        reasons = [str(reason) for reason in event._reasons or []]
        known = self.round.setdefault(item, {"dependees": [], "reasons": [], "close": []})
        for key, new in (("dependees", names), ("reasons", reasons), ("close", sorted(set(event._close_matches or [])))):
            known[key] += [one for one in new if one not in known[key]]

    @staticmethod
    def recipe_name(name):
        return smidr.multiconfig_of(name) + smidr.recipe_of(name)[0] if name.endswith(".bb") else name

    def tell_missing(self):
        for (item, runtime), told in self.missing.items():
            listed = {key: names[:LISTED] for key, names in told.items()}
            self.found("missing", item=item, runtime=runtime, more=max(0, len(told["dependees"]) - LISTED), **listed)

    # ---- recipes that are needed

    def look(self):
        graph, tasks = self.graph, self.graph["tdepends"]
        self.wanted = collections.defaultdict(set)  # who needs a package
        for names in ("rdepends-pn", "rdepends-pkg"):
            for one, wanted in graph[names].items():
                for name in wanted:
                    self.wanted[name].add(one)
        # Variants of a recipe, such as native ones, have the same sources.
        files = {}
        for name, about in graph["pn"].items():
            files.setdefault((smidr.multiconfig_of(about["filename"]), about["filename"].rsplit(":", 1)[-1]), []).append(name)
        chosen = sorted(min(names, key=lambda name: (graph["pn"][name]["filename"].count(":"), name)) for names in files.values())
        left_out = max(0, len(chosen) - RECIPES)
        rm_work = False
        for number, name in enumerate(chosen[:RECIPES]):
            self.heed_signals()
            if self.stopping:
                return
            self.progress("look", number, len(chosen))
            file = graph["pn"][name]["filename"]
            try:
                with Recipe(self.server, file) as recipe:
                    if "%s.do_fetch" % name in tasks:
                        self.look_at_sources(name, file.rsplit(":", 1)[-1], recipe)
                    self.look_at_licences(name, recipe)
            except (ValueError, bb.fetch2.BBFetchException) as problem:
                self.found("unread", recipe=name, file=file, text=str(problem).strip())
            while (event := self.events.getEvent()) is not None:
                self.handle(event)
            rm_work = rm_work or "%s.do_rm_work" % name in tasks
        self.progress("look", len(chosen), len(chosen))
        self.ask_servers()
        self.emit(
            "looked", recipes=len(chosen) - left_out, left_out=left_out, tasks=len(tasks), sources=self.sources, rm_work=rm_work,
            branches=len(self.branches) + self.here, here=self.here, asked=self.asked, unasked=dict(self.unasked),
            more={kind: count - KEPT for kind, count in self.counts.items() if count > KEPT})

    def look_at_licences(self, name, recipe):
        for package in (recipe.get("PACKAGES") or "").split():
            if package not in self.wanted:
                continue
            licences = recipe.get(EXCLUDED + package)
            needed = sorted(one for one in self.wanted[package] if one != name and not one.startswith(name + "-"))
            if licences and needed:
                self.found("licence", recipe=name, package=package, licences=licences, needed=needed[:LISTED])

    def look_at_sources(self, name, file, recipe):
        urls = (recipe.get("SRC_URI") or "").split()
        flags = None
        for url in urls:
            self.sources += 1
            kind, host, path, user, _, parm = bb.fetch2.decodeurl(url)
            where = {"recipe": name, "file": file, "url": url.split(";")[0]}
            if kind in ("http", "https", "ftp", "ftps"):
                if flags is None:
                    flags = recipe.call("getVarFlags", "SRC_URI") or {}
                prefix = "%s." % parm["name"] if "name" in parm else ""
                sums = [each + "sum" for each in bb.fetch2.CHECKSUM_LIST]
                if not any(one in parm or prefix + one in parm or flags.get(prefix + one) for one in sums):
                    strict = recipe.get("BB_STRICT_CHECKSUM") or "0"
                    if strict != "ignore":
                        self.found("checksum", **where, flag=prefix + "sha256sum", strict=strict == "1")
            elif kind in ("git", "gitsm"):
                self.look_at_git(recipe, host, path, user, parm, where)

    # ---- git

    def look_at_git(self, recipe, host, path, user, parm, where):
        protocol = parm.get("protocol") or ("git" if host else "file")
        if parm.get("usehead") == "1" and protocol == "file":
            return
        branches = parm.get("branch", "master").split(",")
        for at, name in enumerate(parm.get("name", "default").split(",")):
            commit = self.revision(recipe, name, parm)
            if commit is None:
                self.found("revision", **where)
            elif commit in ("AUTOINC", "${AUTOREV}"):
                self.found("autorev", **where)
            elif parm.get("nobranch") != "1":
                branch = branches[at] if at < len(branches) else branches[0]
                self.look_at_branch(recipe, protocol, host, path, user, branch, commit, where)

    @staticmethod
    def revision(recipe, name, parm):
        """As bb.fetch2.srcrev_internal_helper finds it, which would ask the network for AUTOREV."""
        own = parm.get("rev") or parm.get("tag")
        package = recipe.get("PN")
        for variable in ("SRCREV_%s:pn-%s" % (name, package), "SRCREV_%s" % name, "SRCREV:pn-%s" % package, "SRCREV"):
            value = recipe.get(variable)
            if value and value != "INVALID":
                return value
        return own

    def look_at_branch(self, recipe, protocol, host, path, user, branch, commit, where):
        folder = recipe.get("GITDIR") or "%s/git2" % recipe.get("DL_DIR")
        # As bb.fetch2.git names it.
        name = host.replace(":", ".") + re.sub(r"[ ()]", "_", path.replace("/", ".").replace("*", "."))
        clone = os.path.join(folder, name.lstrip("."))
        tarball = os.path.join(recipe.get("DL_DIR"), "git2_%s.tar.gz" % name.lstrip("."))
        if os.path.exists(tarball) or is_on_branch(clone, commit, branch):
            self.here += 1
            return
        url = "%s://%s%s" % (protocol, host, path)
        self.branches.setdefault((url, branch), []).append({**where, "commit": commit, "user": bool(user), "clone": clone})

    def ask_servers(self):
        wanted = list(self.branches.items())
        if not smidr.ASK:
            self.unasked["network"] += len(wanted)
            return
        self.unasked["many"] += max(0, len(wanted) - ASKED)
        until = time.monotonic() + ASK_ALL
        with concurrent.futures.ThreadPoolExecutor(ASK_AT_ONCE) as pool:
            answers = [(key, uses, pool.submit(heads, *key, uses[0]["user"], until)) for key, uses in wanted[:ASKED]]
            for number, ((url, branch), uses, answer) in enumerate(answers):
                self.progress("ask", number, len(answers))
                state, tip = answer.result()
                if state != "answer":
                    self.unasked[state] += 1
                    continue
                self.asked += 1
                for use in uses if tip is None else []:
                    self.found("branch", recipe=use["recipe"], file=use["file"], url=url, branch=branch)


def cut(value):
    if isinstance(value, list):
        return [cut(one) for one in value]
    return value[:TEXT] + "…" if isinstance(value, str) and len(value) > TEXT else value


def git(*args, timeout=ASK_TIMEOUT):
    """What git prints, or nothing."""
    try:
        done = subprocess.run(["git", *args], env=GIT_ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def is_on_branch(clone, commit, branch):
    if not os.path.isdir(clone) or not re.fullmatch("[0-9a-f]{40,64}", commit):
        return False
    return bool(git("--git-dir", clone, "-c", "safe.directory=*", "branch", "--contains", commit, "--list", branch))


def heads(url, branch, user, until):
    """Whether a server answered, and the commit of the branch, if it has one."""
    parts = urllib.parse.urlsplit(url)
    if user or parts.scheme == "ssh":
        return "credentials", None
    if parts.scheme not in ("https", "http", "git", "file"):
        return "protocol", None
    if parts.scheme != "file" and (refused := smidr_ask.refusal(parts)):
        return refused, None
    left = min(ASK_TIMEOUT, until - time.monotonic())
    if left <= 0:
        return "time", None
    # A server could lead on to an address that may not be asked.
    said = git("-c", "credential.helper=", "-c", "http.followRedirects=false", "-c", "safe.directory=*", "ls-remote", "--", url,
               "refs/heads/%s" % branch, timeout=left)
    if said is None:
        return "silent", None
    commit = said.split("\t")[0]
    return "answer", commit or None


smidr.HANDLERS.update({"bb.event.DepTreeGenerated": Deep.on_graph, "bb.event.NoProvider": Deep.on_no_provider})


def main(server, eventHandler, params):
    return smidr.main(server, eventHandler, params, Deep)
