//! A terminal of the sandbox's own, relayed to ours: a program in there cannot push characters into the caller's shell
//! (CVE-2017-5226), and still has colours, job control and a size.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

/// Our side.
pub struct Pty(File);

/// A relay that runs. Restores the caller's terminal.
pub struct Relay {
    before: Termios,
    output: JoinHandle<()>,
}

impl Pty {
    /// Opens a pair; the second is the program's side.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let pty = Self(master.into());
        pty.resize();
        Ok((pty, slave))
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _ = tcsetwinsize(&self.0, size);
        }
    }

    /// Relays in both directions until the program has closed its side.
    pub fn relay(self) -> io::Result<Relay> {
        // Blocked here, so that the threads inherit it and only the one that waits gets it.
        let resized = SigSet::from(Signal::SIGWINCH);
        resized.thread_block()?;
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let (mut input, mut output) = (self.0.try_clone()?, self.0.try_clone()?);
        thread::spawn(move || pump(&mut io::stdin(), &mut input));
        thread::spawn(move || {
            while resized.wait().is_ok() {
                self.resize();
            }
        });
        let output = thread::spawn(move || pump(&mut output, &mut io::stdout()));
        Ok(Relay { before, output })
    }
}

impl Relay {
    /// Waits for what the program has printed last.
    pub fn finish(self) {
        let _ = self.output.join();
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Copies without waiting for more than there is, until one side is gone: a terminal's end is an error (EIO).
fn pump(from: &mut impl io::Read, to: &mut impl io::Write) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
