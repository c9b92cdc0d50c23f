//! A terminal for tests: a pty that is a program's controlling terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command},
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::support::{LONG, World, smidr_bin};

/// The master side of the pty. Dropping it closes the terminal.
pub(crate) struct Screen {
    master: File,
    /// Tells the other side from other terminals.
    pub number: u64,
    seen: String,
}

/// Starts smidr on a terminal of 30 lines of 100 characters, on which nothing is drawn.
pub(crate) fn on_terminal(setsid: &Path, world: &World, args: &[&str]) -> (Screen, Child) {
    on_kind_of_terminal("dumb", setsid, world, args)
}

/// Starts smidr on a terminal with a TERM.
pub(crate) fn on_kind_of_terminal(term: &str, setsid: &Path, world: &World, args: &[&str]) -> (Screen, Child) {
    starts(term, setsid, world, &smidr_bin(), args)
}

/// As [`on_terminal`], with any program.
pub(crate) fn runs_on_terminal(setsid: &Path, world: &World, program: &Path, args: &[&str]) -> (Screen, Child) {
    starts("dumb", setsid, world, program, args)
}

fn starts(term: &str, setsid: &Path, world: &World, program: &Path, args: &[&str]) -> (Screen, Child) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname(&master, Vec::new()).expect("its name");
    let slave =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("the other side");
    let number = rustix::fs::fstat(&slave).expect("a terminal").st_rdev;
    let screen = Screen { master: master.into(), number, seen: String::new() };
    screen.resize(30, 100);
    let copy = || slave.try_clone().expect("a copy");
    // setsid(1) becomes the program, since it leads no process group.
    let mut command = Command::new(setsid);
    world.surround(&mut command);
    command.env("TERM", term).current_dir(world.project()).arg("--ctty").arg(program).args(args);
    command.stdin(copy()).stdout(copy()).stderr(slave);
    let child = command.spawn().expect("setsid starts");
    (screen, child)
}

impl Screen {
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("set the size");
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// All that has appeared so far.
    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// Waits until this has appeared.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.seen.contains(text) {
            assert!(self.look() && begun.elapsed() < LONG, "no `{text}` in\n{}", self.seen);
        }
    }

    /// Waits until something is true, while the program may go on printing.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(self.look() && begun.elapsed() < LONG, "waited in vain for {what}; seen:\n{}", self.seen);
        }
    }

    /// Waits until the other side is closed.
    #[track_caller]
    pub(crate) fn until_closed(&mut self) {
        let begun = Instant::now();
        while self.look() {
            assert!(begun.elapsed() < LONG, "still open; seen:\n{}", self.seen);
        }
    }

    /// Reads what has come within a moment. False: the other side is closed, which is an error on a terminal (EIO).
    fn look(&mut self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(20u8)).expect("poll") == 0 {
            return true;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(read @ 1..) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..read])),
            _ => return false,
        }
        true
    }
}
