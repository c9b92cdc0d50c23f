# SPDX-License-Identifier: GPL-2.0-only
"""BitBake UI for smidr: `bitbake -u smidr TARGET…`.

Comes in: the server's events. Goes out: one JSON object per line, on the descriptor named by SMIDR_EVENT_FD, and a
readable log on stdout and stderr. It never asks anything, and never draws. For BitBake 1.46 (dunfell) and newer, and for
Python 3.5 and newer, on which that runs. Where versions differ, a comment names the version.
"""

import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import time

import bb
import bb.command
import bb.cooker
import bb.msg
import bb.server.process
import bb.utils

Levels = bb.msg.BBLogFormatter
WARNONCE, ERRORONCE = (getattr(Levels, name, None) for name in ("WARNONCE", "ERRORONCE"))  # since 2.0
featureSet = [bb.cooker.CookerFeatures.SEND_SANITYEVENTS, bb.cooker.CookerFeatures.BASEDATASTORE_TRACKING]

PERIOD = 0.1  # seconds between two lines of the same progress
PING_AFTER = 60  # seconds without an event
PARSE_ERROR = "bb.parse.ParseError: "
TEXT = 32 * 1024  # characters of a text in an event, since smidr limits lines; the console has all of it
UNFETCHED = re.compile(r"Failed to fetch URL ([^\s,]+),")  # of bb.fetch2, before it tries mirrors
CLOSE_TIMEOUT = 10  # seconds for the reader to take the last lines
LEVEL_NAMES = {
    Levels.VERBOSE: "verbose", Levels.NOTE: "note", Levels.PLAIN: "plain", Levels.VERBNOTE: "note",
    WARNONCE: "warning", Levels.WARNING: "warning", ERRORONCE: "error", Levels.ERROR: "error",
    Levels.CRITICAL: "critical",
}


def claim_event_fd():
    """The descriptor; closed in whatever this process executes, so that neither server nor worker holds it open."""
    value = os.environ.pop("SMIDR_EVENT_FD", None)
    if value is None:
        sys.exit("bitbake -u smidr: SMIDR_EVENT_FD is not set; smidr build sets it")
    try:
        fd = int(value)
        os.set_inheritable(fd, False)
        os.set_blocking(fd, True)
        return fd
    except (ValueError, OSError) as problem:
        sys.exit("bitbake -u smidr: SMIDR_EVENT_FD is %r, which is not an open descriptor: %s" % (value, problem))


# Read at import: BitBake cleans the environment soon after.
EVENT_FD = claim_event_fd()
ASK = os.environ.pop("SMIDR_ASK", "") == "1"
ENV = dict(os.environ)


class Lines:
    """Writes lines from a thread of its own: a slow reader holds up neither BitBake nor Ctrl-C."""

    def __init__(self, fd):
        self.fd = fd
        self.waiting = queue.Queue()
        self.thread = threading.Thread(target=self._write_all, daemon=True)
        self.thread.start()

    # No field may have the name of this parameter.
    def emit(self, e, **fields):
        line = json.dumps({"e": e, **fields}, default=str, ensure_ascii=False)
        self.waiting.put(line.encode(errors="replace") + b"\n")  # bytes that were not UTF-8 are lone surrogates here

    def close(self):
        self.waiting.put(None)
        self.thread.join(CLOSE_TIMEOUT)

    def _write_all(self):
        for line in iter(self.waiting.get, None):
            view = memoryview(line)
            try:
                while view:
                    view = view[os.write(self.fd, view):]
            except OSError:
                return  # the reader is gone; the build goes on, and its log on stdout


def log_fields(path):
    """A log's path, and its bytes where they are not UTF-8."""
    text = path and os.fsencode(path).decode(errors="replace")
    return {"log": text} if text == path else {"log": text, "log_bytes": os.fsencode(path).hex()}


def shortened(text):
    """Cut between two words, so that a secret stays whole and is recognised."""
    if len(text) <= TEXT:
        return text
    start = text[:TEXT]
    start = start[:max(start.rfind(" "), start.rfind("\n"))] if " " in start or "\n" in start else ""
    return "%s… (%d more characters are on the console)" % (start, len(text) - len(start))


def pieces(text):
    """All of a text, as whole lines of which each piece fits into an event."""
    end = text.rfind("\n", 0, TEXT)
    while len(text) > TEXT and end > 0:
        yield text[:end]
        text = text[end + 1:]
        end = text.rfind("\n", 0, TEXT)
    yield shortened(text)


class Task:
    """One task that runqueue started, until it has ended."""

    def __init__(self, event, setscene):
        name, version = recipe_of(event.taskfile)
        self.multiconfig = multiconfig_of(event.taskfile)
        self.recipe, self.version, self.setscene = self.multiconfig + name, version, setscene
        self.task = event.taskname.split("_setscene")[0]
        self.noexec = getattr(event, "noexec", False)
        self.pid = self.log = None
        self.announced = False
        self.ok = False
        self.unfetched = []
        stats = event.stats
        if setscene and hasattr(stats, "setscene_total"):
            done = stats.setscene_covered + stats.setscene_active + stats.setscene_notcovered
            self.index, self.total = done + 1, stats.setscene_total
        else:
            self.index, self.total = stats.completed + stats.active + stats.failed + 1, stats.total

    def names(self):
        return {"recipe": self.recipe, "task": self.task}


def multiconfig_of(path):
    """`mc:NAME:` for files of a multiconfig other than the default one, as targets are written."""
    words = path.split(":", 2)
    return "mc:%s:" % words[1] if words[0] == "mc" and len(words) == 3 else ""


def recipe_of(path):
    """Name and version from the file name, for tasks without an event from their own process."""
    *prefix, file = path.rsplit(":", 1)
    name, _, version = os.path.splitext(os.path.basename(file))[0].partition("_")
    variant = prefix[0].rsplit("virtual:", 1)[1] if prefix and "virtual:" in prefix[0] else ""
    for word in filter(None, variant.split(":")):
        name = {"native": name + "-native"}.get(word, "%s-%s" % (word, name))
    return name, version


class Ui:
    def __init__(self, server, events, params, lines):
        self.server, self.events, self.params, self.emit = server, events, params, lines.emit
        self.log = logging.getLogger("BitBake")
        self.level, self.domains = bb.msg.constructLogOptions()
        self.exit_code = 0
        self.running = True
        self.stopping = self.signals = 0
        self.universe = False
        self.tasks, self.by_pid, self.failed = {}, {}, []
        self.totals = {"total": 0, "setscene": 0}
        self.parsing = 0
        self.sent, self.once = {}, set()
        self.unfetched = []
        signal.signal(signal.SIGINT, self.on_sigint)

    # ---- the flow of control

    def run(self):
        """What main returns."""
        try:
            self.set_up()
            if self.params.options.remote_server and self.params.options.kill_server:
                self.server.terminateServer()
                return 0
            if self.params.observe_only or self.start_command():
                self.loop()
            else:
                self.exit_code = 1
        except (OSError, EOFError, bb.server.process.ProcessTimeout) as problem:
            self.fail("lost the BitBake server: %s" % problem)
        except bb.BBHandledException:  # the server has sent the reason, as a log record
            for event in iter(lambda: self.events.waitEvent(0.1), None):
                self.handle(event)
            self.exit_code = 1
        self.finish()
        return self.exit_code

    def set_up(self):
        quiet = self.params.options.quiet
        open_console(self.level, quiet, None)
        if not self.params.observe_only:
            self.params.updateToServer(self.server, os.environ.copy())
        command = "getVariable" if self.params.observe_only else "getSetVariable"
        file = self.variable("BB_CONSOLELOG", command)
        if file and not self.params.options.show_environment and not self.params.options.show_versions:
            open_console(self.level, quiet, file)
        mask = [*HANDLERS, "logging.LogRecord"]
        self.ask("setEventMask", self.server.getEventHandle(), self.level, self.domains, mask)

    def start_command(self):
        """False where there is nothing to do, or the server refuses it."""
        self.params.updateFromServer(self.server)
        wanted = self.params.parseActions()
        if not wanted:
            return self.fail("Nothing to do: name a target, such as an image")
        if wanted.get("msg"):
            return self.fail(wanted["msg"])
        action = wanted["action"]
        self.universe = action[0] == "buildTargets" and "universe" in action[1]
        options = self.params.options
        tries = getattr(options, "dry_run", False) or getattr(options, "dump_signatures", None)
        task = action[2] if action[0] == "buildTargets" and not tries else None
        self.emit("action", builds=task is not None, task=task)
        answer, error = self.server.runCommand(action)
        if error or not answer:
            return self.fail("Command '%s' failed: %s" % (action[0], error or "returned %s" % answer))
        return True

    def loop(self):
        last_event = time.monotonic()
        while self.running:
            self.heed_signals()
            event = self.events.waitEvent(0.25)
            now = time.monotonic()
            if event is not None:
                last_event = now
                self.handle(event)
            elif not getattr(self.events, "t", threading.current_thread()).is_alive():
                raise EOFError("it ended")  # the thread that reads its events met the end of the pipe
            elif now > last_event + PING_AFTER and hasattr(bb.command.CommandsSync, "ping"):  # since 2.4
                self.ask("ping")
                last_event = now

    def finish(self):
        for key, task in list(self.tasks.items()):  # the connection ended before the server reported their end
            self.end_task(key, task.ok, 0 if task.ok else None, cancelled=True)
        if self.failed:
            self.emit("failed", tasks=self.failed)
            for task in self.failed:
                self.log.error("Failed: %s:%s%s", task["recipe"], task["task"],
                               ", see %s" % task["log"] if task["log"] else "")
        if ASK and self.unfetched and not self.stopping:
            from bb.ui import smidr_ask  # only here, since it loads much
            for url, answer in smidr_ask.answers(self.unfetched):
                self.emit("answered", url=url, **answer)
        if self.stopping and self.signals:
            self.exit_code = self.exit_code or 1
        if not self.params.observe_only:
            self.wait_for_caches()

    def wait_for_caches(self):
        """The server writes the parse cache in a thread of its own, and this command waits for it. smidr ends the server together
        with this process, without the second that the server would take to notice."""
        try:
            self.server.runCommand(["stateShutdown"])
        except (OSError, EOFError, bb.server.process.ProcessTimeout):
            pass  # it has ended already

    def handle(self, event):
        if isinstance(event, logging.LogRecord):
            return self.on_record(event)
        handler = HANDLERS.get("%s.%s" % (type(event).__module__, type(event).__qualname__))
        if handler:
            handler(self, event)

    # ---- messages

    def ask(self, *command):
        answer, error = self.server.runCommand(list(command))
        if error:
            self.fail("Command '%s' failed: %s" % (command[0], error))
        return answer

    def variable(self, name, command="getVariable"):
        return self.ask(command, name)

    def fail(self, text):
        """An error of the UI's own. Always False."""
        self.say("error", text)
        self.exit_code = 1
        return False

    def say(self, level, text):
        """What BitBake says by an event of its own."""
        self.emit("log", level=level, text=shortened(text))
        getattr(self.log, {"note": "info"}.get(level, level))("%s", text)

    def progress(self, kind, done, total, **fields):
        if self.due(kind, done == total):
            self.emit(kind, done=done, total=total, **fields)

    def due(self, key, always=False):
        now = time.monotonic()
        if always or now >= self.sent.get(key, 0) + PERIOD:
            self.sent[key] = now
            return True
        return False

    # ---- Ctrl-C

    def on_sigint(self, _number, _frame):
        self.signals += 1  # only noted here, so that no command to the server is cut in two

    def heed_signals(self):
        if self.signals and self.params.observe_only:
            self.running = False
        while self.running and self.stopping < self.signals:
            self.stopping += 1
            if self.stopping > 2:
                self.running = False
                return
            force = self.stopping == 2
            self.emit("stopping", force=force)
            self.log.info("Interrupted, %s", "ending running tasks" if force else "waiting for running tasks")
            self.ask("stateForceShutdown" if force else "stateShutdown")

    # ---- log records

    def on_record(self, record):
        if record.levelno >= (ERRORONCE or Levels.ERROR):
            self.exit_code = 1
        pid = getattr(record, "taskpid", 0)
        if pid and record.levelno <= Levels.NOTE and not self.wants_task_notes(record.levelno):
            return
        once = record.levelno in (WARNONCE, ERRORONCE)
        if once and (record.levelno, record.getMessage()) in self.once:
            return
        trace = getattr(record, "bb_exc_formatted", [])
        if trace and trace[-1].startswith(PARSE_ERROR):  # a mistake in conf or a recipe: the way to it leads through the parser
            record.msg, record.args = trace[-1][len(PARSE_ERROR):].strip(), ()
            record.bb_exc_formatted = trace = []
        text = record.getMessage() + "".join("\n" + line for line in trace)
        task = self.tasks.get(self.by_pid.get(pid))
        if task and record.levelno == Levels.WARNING:
            task.unfetched += UNFETCHED.findall(text)
        level = LEVEL_NAMES.get(record.levelno, "debug" if record.levelno <= Levels.DEBUG else "note")
        for piece in pieces(text) if level == "plain" else [shortened(text)]:
            self.emit("log", level=level, text=piece, **(task.names() if task else {}))
        if once:
            self.once.add((record.levelno, record.getMessage()))
        elif task and record.levelno != Levels.PLAIN:
            record.msg = "%s %s: %s" % (task.recipe, task.task, record.msg)
        if hasattr(record, "fn") and not once:
            record.msg = "%s: %s" % (record.fn, record.msg)
        logging.getLogger(record.name).handle(record)

    def wants_task_notes(self, level):
        """Notes of tasks are in their own logs, and here only with -v or -D."""
        return level >= self.level and (level != Levels.NOTE or self.level <= Levels.VERBOSE)

    # ---- parsing and providers

    def on_cache(self, event):
        self.progress("cache", event.current, event.total)

    def on_parse(self, event):
        self.parsing = event.total
        self.progress("parse", event.current, event.total)

    def on_parsed(self, event):
        if self.parsing:  # the last step is a part of a percent, of which there is no event
            self.progress("parse", self.parsing, self.parsing)
            self.parsing = 0
        self.emit("parsed", recipes=event.total, cached=event.cached, parsed=event.parsed,
                  skipped=event.skipped, errors=event.errors)
        self.log.info("Parsed %d recipes: %d from the cache, %d anew, %d skipped, %d errors",
                      event.total, event.cached, event.parsed, event.skipped, event.errors)

    def on_parse_error(self, event):
        self.exit_code = 1
        self.emit("parse_error", text=str(getattr(event, "_msg", event)))

    def on_no_provider(self, event):
        self.emit("no_provider", item=event._item, runtime=bool(event._runtime),
                  dependees=list(event._dependees or []), reasons=list(event._reasons or []),
                  close_matches=sorted(set(event._close_matches or [])))
        if self.universe:
            return self.log.warning("%s", event)
        self.exit_code = 1
        self.log.error("%s", event)

    def on_multiple_providers(self, event):
        self.say("note", str(event))

    def on_disk_full(self, event):
        self.emit("disk_full", dir=event._mountpoint, kind=event._type)

    def on_exec_tty(self, event):
        self.say("warning", event.msg)  # menuconfig and the like: no terminal here

    def on_sanity(self, event):
        """Failed. Only where a client has asked for it: otherwise the check raises, and its error is a log record."""
        self.exit_code = 1
        self.say("error", str(event._msg))

    def on_network(self, _event):
        """As above."""
        self.exit_code = 1
        self.say("error", "BitBake's test of the network (CONNECTIVITY_CHECK_URIS) failed")

    def on_pressure(self, event):
        """Since 2.16; before, and for the load average, it is a log record."""
        names, values = ("CPU", "I/O", "memory"), event.pressure_values
        over = ["%s %s of at most %s" % (name, values[2 * place], values[2 * place + 1])
                for place, name in enumerate(names) if event.pressure_state[place]]
        self.say("note", "No further tasks start while the pressure on this machine is high: %s" % ", ".join(over) if over
                 else "The pressure on this machine is low again: further tasks start")

    def on_process_begin(self, event):
        """A step between parsing and the first task."""
        self.emit("step", name=event.processname, done=0, total=event.total)

    def on_process(self, event):
        self.progress("step", int(event.progress), 100, name=event.processname)

    def on_process_end(self, event):
        self.emit("step", name=event.processname, done=100, total=100)

    # ---- tasks, as runqueue sees them

    def on_queued(self, event):
        self.start(event, setscene=False)

    def on_setscene_queued(self, event):
        self.start(event, setscene=True)

    def start(self, event, setscene):
        self.count(event.stats, setscene)
        task = self.tasks[event.taskstring] = Task(event, setscene)
        if task.noexec:
            self.announce(task)  # no process will report its start

    def count(self, stats, setscene=False):
        if hasattr(stats, "setscene_total"):
            totals = {"total": stats.total, "setscene": stats.setscene_total}
        else:  # before 1.50, setscene tasks have statistics of their own
            totals = dict(self.totals, **{"setscene" if setscene else "total": stats.total})
        if totals != self.totals and totals["total"]:
            self.emit("tasks", **totals)
        self.totals = totals

    def announce(self, task):
        if task.announced:
            return
        task.announced = True
        extra = {"noexec": True} if task.noexec else {}
        self.emit("task_started", **task.names(), version=task.version, pid=task.pid, index=task.index,
                  total=task.total, setscene=task.setscene, **log_fields(task.log), **extra)
        kind = "noexec task" if task.noexec else "setscene task" if task.setscene else "task"
        self.log.info("Running %s %d of %d (%s:%s)", kind, task.index, task.total, task.recipe, task.task)

    def on_completed(self, event):
        self.end_task(event.taskstring, True, 0)

    def on_failed(self, event):
        self.exit_code = 1
        task, pseudo = self.tasks.get(event.taskstring), getattr(event, "fakeroot_log", None)  # since 1.50
        if task and pseudo:
            self.emit("log", level="error", text=shortened("pseudo says:\n%s" % pseudo), **task.names())
        self.end_task(event.taskstring, False, event.exitcode)
        self.log.error("%s", event)

    def on_setscene_failed(self, event):
        self.end_task(event.taskstring, False, event.exitcode)
        self.log.warning("%s", event)

    def end_task(self, key, ok, code, cancelled=False):
        task = self.tasks.pop(key, None)
        if task is None:
            return
        self.announce(task)  # it ended before it could start: a dry run, or a recipe that no longer parses
        if self.by_pid.get(task.pid) == key:
            del self.by_pid[task.pid]
        code = code if isinstance(code, int) else None
        self.emit("task_ended", **task.names(), pid=task.pid, ok=ok, **log_fields(task.log), setscene=task.setscene, exit=code)
        if not ok and not task.setscene and not cancelled:
            self.failed.append({**task.names(), "log": task.log})
            self.unfetched += task.unfetched

    def on_skipped(self, event):
        self.count(event.stats)
        self.emit("task_skipped", recipe=multiconfig_of(event.taskfile) + recipe_of(event.taskfile)[0], task=event.taskname, reason=event.reason)

    def on_exit_wait(self, _event):
        """The server is stopping of its own accord; the next Ctrl-C is a second one."""
        if not self.stopping:
            self.stopping, self.signals = 1, self.signals + 1
            self.exit_code = self.exit_code or 1

    # ---- tasks, as their own processes see them

    def on_started(self, event):
        key = "%s:%s" % (event._fn, event._task)
        task = self.tasks.get(key)
        if task is None:
            return
        task.recipe, task.pid, task.log = task.multiconfig + event.pn, event.pid, event.logfile
        task.version = event._package[len(event.pn) + 1:]
        self.by_pid[event.pid] = key
        self.announce(task)

    def on_succeeded(self, event):
        task = self.tasks.get("%s:%s" % (event._fn, event._task))
        if task:
            task.ok = True
            # BitBake removes a log in which nothing was written.
            task.log = event.logfile if os.path.exists(event.logfile) else None

    def on_task_failed(self, event):
        self.exit_code = 1
        if not event.logfile or not os.path.exists(event.logfile):
            return
        self.log.error("Logfile of failure stored in: %s", event.logfile)  # smidr shows its end

    def on_failed_silently(self, event):
        self.log.warning("Logfile for failed setscene task is %s", event.logfile)

    def on_progress(self, event):
        if event.pid in self.by_pid and self.due(event.pid, event.progress == 100):
            self.emit("task_progress", pid=event.pid, percent=event.progress if event.progress >= 0 else None,
                      rate=event.rate)

    # ---- the end of the command

    def on_command_failed(self, event):
        self.exit_code = event.exitcode
        if event.error:
            self.fail(str(event))
        self.running = False

    def on_command_exit(self, event):
        self.exit_code = self.exit_code or event.exitcode
        self.running = False

    def on_over(self, _event):
        self.running = False


# By class name, as in the server's event mask: a class that this BitBake lacks does no harm.
HANDLERS = {
    "bb.event.CacheLoadProgress": Ui.on_cache,
    "bb.event.ParseProgress": Ui.on_parse,
    "bb.event.ParseCompleted": Ui.on_parsed,
    "bb.event.ParseError": Ui.on_parse_error,
    "bb.event.NoProvider": Ui.on_no_provider,
    "bb.event.MultipleProviders": Ui.on_multiple_providers,
    "bb.event.DiskFull": Ui.on_disk_full,
    "bb.event.SanityCheckFailed": Ui.on_sanity,
    "bb.event.NetworkTestFailed": Ui.on_network,
    "bb.event.ProcessStarted": Ui.on_process_begin,
    "bb.event.ProcessProgress": Ui.on_process,
    "bb.event.ProcessFinished": Ui.on_process_end,
    "bb.event.LogExecTTY": Ui.on_exec_tty,
    "bb.runqueue.runQueueTaskStarted": Ui.on_queued,
    "bb.runqueue.sceneQueueTaskStarted": Ui.on_setscene_queued,
    "bb.runqueue.runQueueTaskCompleted": Ui.on_completed,
    "bb.runqueue.sceneQueueTaskCompleted": Ui.on_completed,
    "bb.runqueue.runQueueTaskFailed": Ui.on_failed,
    "bb.runqueue.sceneQueueTaskFailed": Ui.on_setscene_failed,
    "bb.runqueue.runQueueTaskSkipped": Ui.on_skipped,
    "bb.runqueue.runQueueExitWait": Ui.on_exit_wait,
    "bb.runqueue.PSIEvent": Ui.on_pressure,
    "bb.build.TaskStarted": Ui.on_started,
    "bb.build.TaskSucceeded": Ui.on_succeeded,
    "bb.build.TaskFailed": Ui.on_task_failed,
    "bb.build.TaskFailedSilent": Ui.on_failed_silently,
    "bb.build.TaskProgress": Ui.on_progress,
    "bb.command.CommandFailed": Ui.on_command_failed,
    "bb.command.CommandExit": Ui.on_command_exit,
    "bb.command.CommandCompleted": Ui.on_over,
    "bb.cooker.CookerExit": Ui.on_over,
}


def open_console(level, quiet, file):
    """Errors on stderr, the rest on stdout; everything in the file of BB_CONSOLELOG, where that is set.

    The handlers take what comes: the server sends no record that the levels and domains of the command line exclude.
    """
    messages, errors = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    messages.setLevel(logging.NOTSET if quiet == 0 else Levels.WARNING)
    messages.addFilter(lambda record: record.levelno < Levels.ERROR)
    errors.setLevel(Levels.ERROR)
    handlers = [messages, errors]
    if file:
        bb.utils.mkdirhier(os.path.dirname(file))
        handlers.append(logging.FileHandler(file))
    for handler in handlers:
        handler.setFormatter(bb.msg.BBLogFormatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("BitBake")
    logger.handlers, logger.propagate = handlers, False
    logger.setLevel(level)


def main(server, eventHandler, params, ui=Ui):
    bb.utils.set_process_name("smidr UI")
    lines, code = Lines(EVENT_FD), 1
    lines.emit("hello", version=bb.__version__)
    try:
        code = ui(server, eventHandler, params, lines).run()
        code = code if code == 0 or code & 0xff else 1  # of 256 the exit status, which decides, would be 0
    finally:
        lines.emit("done", exit=code)
        lines.close()
        logging.shutdown()
    return code
