//! A daemon on a disk that loses what was not synced or is full, and with a clock that is set: each is a library in front of the C library's.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    time::UNIX_EPOCH,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    support::{Done, LONG, Running, has, skip, wait_for},
    trouble::recipe,
    workers::Alone,
};

/// What is synced is copied to `$SHIM_DISK`, by inode and time of birth (a number is used again). The wall clock is ahead by the seconds in `$SHIM_CLOCK`. After as
/// many writes to files, new files and new folders as `$SHIM_FULL` says, the disk is full; each change of that file begins anew.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int keep(int fd, const char *name, int result) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    const char *disk = getenv("SHIM_DISK");
    struct statx found;
    result = real(fd);
    if (!disk || statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) || !S_ISREG(found.stx_mode)) return result;
    char from[64], to[4096], whole[4096];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    snprintf(whole, sizeof whole, "%s/%llu-%lld%09u", disk, (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    snprintf(to, sizeof to, "%s.%ld", whole, syscall(SYS_gettid));
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static __thread char part[65536];
    for (ssize_t count; (count = read(in, part, sizeof part)) > 0;)
        if (syscall(SYS_write, out, part, count) != count) abort();
    close(in);
    close(out);
    rename(to, whole);
    return result;
}

int fsync(int fd) { return keep(fd, "fsync", 0); }
int fdatasync(int fd) { return keep(fd, "fdatasync", 0); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time), before = errno;
    const char *file = getenv("SHIM_CLOCK");
    if (clock == CLOCK_REALTIME && file) {
        char text[32] = "";
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        if (read(fd, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
        close(fd);
    }
    errno = before;
    return result;
}

static int is_full(void) {
    static _Atomic long left, generation;
    const char *file = getenv("SHIM_FULL");
    char text[64] = "";
    int fd = file ? syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    long count = 0, now = 0;
    int words = syscall(SYS_read, fd, text, sizeof text - 1) > 0 ? sscanf(text, "%ld %ld", &now, &count) : 0;
    close(fd);
    if (words != 2) return 0;
    if (atomic_exchange(&generation, now) != now) left = count;
    return atomic_fetch_sub(&left, 1) <= 0;
}

static int refuses(int fd) {
    struct stat found;
    if (fstat(fd, &found) || !S_ISREG(found.st_mode) || !is_full()) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *from, size_t count) { return refuses(fd) ? -1 : syscall(SYS_write, fd, from, count); }
ssize_t pwrite64(int fd, const void *from, size_t count, off64_t at) { return refuses(fd) ? -1 : syscall(SYS_pwrite64, fd, from, count, at); }
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) { return pwrite64(fd, from, count, at); }
ssize_t writev(int fd, const void *from, int count) { return refuses(fd) ? -1 : syscall(SYS_writev, fd, from, count); }
int ftruncate64(int fd, off64_t size) { return refuses(fd) ? -1 : syscall(SYS_ftruncate, fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int made(int folder, const char *path, int flags, int mode) {
    if ((flags & O_CREAT) && faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW) && is_full()) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_openat, folder, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return made(AT_FDCWD, path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    if (is_full()) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
"#;

/// A world whose daemon, and its workers, run with that library.
struct Machine {
    // Ends before its world goes.
    daemon: Option<Running>,
    world: Alone,
}

impl Machine {
    /// None where there can be no such library; the skip is then reported.
    fn new(test: &str, world: Alone) -> Option<Self> {
        if !has("cc") {
            skip(test, "there is no C compiler");
            return None;
        }
        let at = |name: &str| world.home.join(name);
        fs::create_dir(at("disk")).expect("a folder");
        fs::write(at("shim.c"), SHIM).expect("written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(at("shim.so")).arg(at("shim.c")).arg("-ldl");
        Done::new(cc.output().expect("a compiler")).expect_code(0);
        world.settings("limits: {builds: 1}\n");
        let mut machine = Self { daemon: None, world };
        machine.begin();
        Some(machine)
    }

    fn begin(&mut self) {
        let at = |name: &str| self.world.home.join(name);
        let daemon = self
            .world
            .smidr()
            .args(["daemon", "--address", "127.0.0.1:0", "--insecure"])
            .env("LD_PRELOAD", at("shim.so"));
        let daemon = daemon.env("SHIM_DISK", at("disk")).env("SHIM_CLOCK", at("clock"));
        let mut daemon = daemon.env("SHIM_FULL", at("full")).start();
        daemon.until_says("listening on");
        self.daemon = Some(daemon);
    }

    fn stop(&mut self) {
        self.client(&["stop"], "daemon").expect_code(0);
        self.daemon.take().expect("it runs").wait().expect_code(0);
    }

    fn client(&self, args: &[&str], command: &str) -> Done {
        self.world.smidr().arg(command).args(args).run()
    }

    /// Sets the clock of the daemon and of what it starts, by the true one.
    fn set_clock(&self, seconds: i64) {
        fs::write(self.world.home.join("clock"), seconds.to_string()).expect("written");
    }

    #[track_caller]
    fn started(&self, args: &[&str]) -> String {
        let done = self.client(&[&["start"], args].concat(), "client");
        done.expect_code(0).out.strip_prefix("Build ID: ").expect("an id").trim_end().to_owned()
    }

    #[track_caller]
    fn state(&self, id: &str) -> String {
        let done = self.client(&["status", id, "--json"], "client");
        done.expect_code(0).json()["build"]["state"].as_str().expect("a state").to_owned()
    }

    #[track_caller]
    fn until(&self, id: &str, state: &str) {
        wait_for(&format!("{id} to be {state}"), LONG, || self.state(id) == state);
    }

    /// Makes a token. Gives the file that holds it.
    #[track_caller]
    fn token(&self, args: &[&str]) -> String {
        let done = self.client(&[&["token", "create"], args].concat(), "daemon");
        let file = self.world.home.join(args[0]);
        fs::write(&file, &done.expect_code(0).out).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("closed");
        file.display().to_string()
    }

    /// Whether a token is good.
    fn admits(&self, token: &str) -> bool {
        let status = self.client(&["status", "--json"], "daemon").expect_code(0).json();
        let address = status["addresses"][1].as_str().expect("an address").to_owned();
        self.client(&["queue", "--address", &address, "--insecure", "--token-file", token], "client").code == Some(0)
    }

    #[track_caller]
    fn waiting(&self) -> Vec<String> {
        let queue = self.client(&["queue", "--json"], "client").expect_code(0).json();
        let ids = queue["waiting"].as_array().expect("a list").iter();
        ids.map(|one| one["build"].as_str().expect("an id").to_owned()).collect()
    }

    /// Ends all that runs, and leaves of its files what was synced: names stay, content does not.
    fn cut_power(&mut self) {
        for pid in self.world.processes().iter().filter_map(|line| line.split(' ').next()?.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.daemon = None;
        self.world.until_quiet();
        for name in ["daemon", "builds", "queue", "history.db", "history.db-wal", "history.db-shm"] {
            for entry in walkdir::WalkDir::new(self.world.smidr.join(name)).into_iter().flatten() {
                if entry.file_type().is_file() {
                    fs::write(entry.path(), self.synced(entry.path())).expect("written");
                }
            }
        }
    }

    fn synced(&self, file: &Path) -> Vec<u8> {
        let found = file.metadata().expect("a file");
        let born = found.created().expect("a time of birth").duration_since(UNIX_EPOCH).expect("after 1970");
        let name = format!("{}-{}{:09}", found.ino(), born.as_secs(), born.subsec_nanos());
        fs::read(self.world.home.join("disk").join(name)).unwrap_or_default()
    }
}

#[test]
fn what_was_answered_outlives_a_power_cut() {
    let name = "daemon_power::what_was_answered_outlives_a_power_cut";
    let Some(mut machine) = Machine::new(name, Alone::without_image()) else { return };
    machine.client(&["pause"], "daemon").expect_code(0);
    let ids = [(); 3].map(|()| machine.started(&[]));
    machine.client(&["cancel", &ids[1]], "client").expect_code(0);
    let token = machine.client(&["token", "create", "ci", "--scope", "read"], "daemon");
    token.expect_code(0);
    machine.cut_power();
    machine.begin();
    machine.client(&["status"], "daemon").expect_code(0).expect_out("paused");
    assert_eq!(machine.waiting(), [ids[0].as_str(), &ids[2]]);
    assert_eq!(machine.state(&ids[1]), "CANCELLED");
    machine.client(&["token", "ls"], "daemon").expect_code(0).expect_out("ci");
    let log = machine.client(&["logs", &ids[1]], "client");
    log.expect_code(0).expect_out("CANCELLED");
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_build_that_a_power_cut_ended_was_interrupted() {
    let name = "daemon_power::a_build_that_a_power_cut_ended_was_interrupted";
    let Some(world) = Alone::new(name) else { return };
    world.held("slow", "never");
    recipe(&world, "quick", "    true");
    let Some(mut machine) = Machine::new(name, world) else { return };
    let over = machine.started(&["--target", "quick"]);
    machine.until(&over, "COMPLETED");
    let log = machine.client(&["logs", &over], "client");
    let runs = machine.started(&["--target", "slow"]);
    machine.world.until_acts(&runs);
    let waits = machine.started(&["--target", "quick"]);
    machine.cut_power();
    machine.begin();
    // Of its records nothing was synced; that it ran is known all the same, and it is not run again.
    machine.until(&runs, "INTERRUPTED");
    machine.until(&waits, "COMPLETED");
    assert_eq!(machine.state(&over), "COMPLETED");
    assert_eq!(machine.client(&["logs", &over], "client").expect_code(0).out, log.out, "to the last record");
    machine.client(&["logs", "--follow", &runs], "client").expect_code(0);
    let queue = machine.client(&["queue", "--json"], "client").expect_code(0).json();
    assert_eq!((&queue["running"], &queue["waiting"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn a_clock_that_is_set_back_loses_and_repeats_nothing() {
    const DAY: i64 = 86_400;
    let name = "daemon_power::a_clock_that_is_set_back_loses_and_repeats_nothing";
    let Some(mut machine) = Machine::new(name, Alone::without_image()) else { return };
    machine.client(&["pause"], "daemon").expect_code(0);
    // The machine believes that it is next month, and learns better.
    machine.set_clock(30 * DAY);
    machine.stop();
    machine.begin();
    let first = machine.started(&[]);
    let long = machine.token(&["long", "--scope", "read", "--expires", "60d"]);
    let short = machine.token(&["short", "--scope", "read", "--expires", "1h"]);
    machine.set_clock(0);
    let second = machine.started(&[]);
    for is_new in [false, true] {
        if is_new {
            machine.stop();
            machine.begin();
        }
        assert_eq!(machine.waiting(), [first.as_str(), &second], "in the order in which they came");
        assert!(machine.admits(&long) && machine.admits(&short));
    }
    for id in [&first, &second] {
        machine.client(&["cancel", id], "client").expect_code(0);
        assert_eq!(machine.state(id), "CANCELLED");
    }
    // What lies in the future is young: nothing is swept, and nothing is older than it is.
    machine.client(&["purge", "--older-than", "1d", "--dry-run"], "daemon").expect_code(0);
    // Set ahead, what has expired is no longer good.
    machine.set_clock(40 * DAY);
    assert!(machine.admits(&long) && !machine.admits(&short));
}

#[test]
#[ignore = "takes long: scripts/test --slow"]
fn a_disk_that_is_full_at_any_write_loses_nothing_that_was_answered() {
    let name = "daemon_power::a_disk_that_is_full_at_any_write_loses_nothing_that_was_answered";
    let Some(mut machine) = Machine::new(name, Alone::without_image()) else { return };
    machine.client(&["pause"], "daemon").expect_code(0);
    let full = machine.world.home.join("full");
    // The shim reads the file at each write: a rename, so that it never reads half of it.
    let set = |generation: usize, count: usize| {
        let new = full.with_extension("new");
        fs::write(&new, format!("{generation} {count}")).expect("written");
        fs::rename(&new, &full).expect("renamed");
    };
    let (mut waiting, mut tokens, mut schedules) = (Vec::<String>::new(), Vec::new(), Vec::new());
    let mut refused = 0;
    for count in 0..=60 {
        set(2 * count + 1, count);
        let started = machine.client(&["start"], "client");
        let token = machine.client(&["token", "create", &format!("t{count}"), "--scope", "read"], "daemon");
        let schedule = machine.client(&["schedule", "create", &format!("s{count}"), "--cron", "0 3 * * *"], "client");
        let last = waiting.last().cloned();
        let cancelled = last.as_deref().map(|id| machine.client(&["cancel", id], "client"));
        set(2 * count + 2, usize::MAX >> 2);
        for done in [&started, &token, &schedule].into_iter().chain(&cancelled) {
            if done.code != Some(0) {
                refused += 1;
                let told = ["full", "No space left", "disk I/O error"].iter().any(|words| done.err.contains(words));
                assert!(told, "after {count} writes: {done:?}");
            }
        }
        if let Some(done) = cancelled {
            // It may have happened all the same: its record comes first, and the disk was full for its row in the index.
            let is_over = machine.state(&last.expect("it was cancelled")) == "CANCELLED";
            assert!(is_over || done.code != Some(0), "after {count} writes");
            if is_over {
                waiting.pop();
            }
        }
        if started.code == Some(0) {
            waiting.push(started.out.strip_prefix("Build ID: ").expect("an id").trim_end().to_owned());
        }
        tokens.extend((token.code == Some(0)).then(|| format!("t{count}")));
        schedules.extend((schedule.code == Some(0)).then(|| format!("s{count}")));
        // Nothing else that a client was refused has happened.
        assert_eq!(machine.waiting(), waiting, "after {count} writes");
    }
    assert!(refused > 3, "{refused}");
    for is_new in [false, true] {
        if is_new {
            machine.stop();
            machine.begin();
        }
        assert_eq!(machine.waiting(), waiting);
        let named = |command: &[&str], of: &str, list: &str| -> Vec<String> {
            let found = machine.client(command, of).expect_code(0).json();
            let found = found[list].as_array().expect("a list");
            found.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
        };
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(named(&["token", "ls", "--json"], "daemon", "tokens")), sorted(tokens.clone()));
        assert_eq!(sorted(named(&["schedule", "ls", "--json"], "client", "schedules")), sorted(schedules.clone()));
    }
}
