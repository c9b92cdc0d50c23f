//! What becomes of the caller's streams where a program runs in the sandbox. Files and pipes are handed over; a terminal never is: who
//! holds it reads the next line that is typed, switches its echo off, pushes characters into the caller's shell (CVE-2017-5226). It is
//! relayed, by way of a terminal or a pipe of the program's own.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    thread::{self, JoinHandle},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal},
};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        LocalModes, OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

use crate::{sandbox::Stdio, system::files};

/// What one of the program's streams is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// The caller's own.
    Own,
    /// A pipe, relayed.
    Pipe,
    /// A terminal, relayed; all of them are the same one.
    Terminal,
}

/// The routes of standard input, output and error, of those that are terminals by what tells one terminal from another.
///
/// Keys arrive one by one only if what they do appears on the same terminal, which has to be raw for that. Else lines do: the terminal
/// stays as it is, for what reads a pipe behind the program and prints to it.
fn routes([input, output, errors]: [Option<u64>; 3]) -> [Route; 3] {
    let line_by_line = input.map_or(Route::Own, |_| Route::Pipe);
    let stdin = if output.is_some() && input == output { Route::Terminal } else { line_by_line };
    let stdout = output.map_or(Route::Own, |_| Route::Terminal);
    let stderr = match (errors, output) {
        (None, _) => Route::Own,
        (Some(one), Some(other)) if one != other => Route::Pipe,
        _ => Route::Terminal,
    };
    [stdin, stdout, stderr]
}

/// Tells terminals apart. The one that controls this process may also be open as /dev/tty, with another number.
fn terminal(stream: &OwnedFd) -> io::Result<Option<u64>> {
    Ok(match (stream.is_terminal(), tcgetpgrp(stream)) {
        (false, _) => None,
        (true, Ok(_)) => Some(0),
        (true, Err(_)) => Some(rustix::fs::fstat(stream)?.st_rdev),
    })
}

/// Between the caller's streams and the program's, before the program runs.
pub(super) struct Relay {
    // Whether the program gets keys, not lines.
    keys: bool,
    // Where from, where to.
    input: Option<(File, File)>,
    outputs: Vec<(File, File)>,
    // The program's terminal, and the caller's that it has the size of.
    screen: Option<(File, File)>,
}

/// A relay that runs. Restores the caller's terminal in the end.
pub(super) struct Relaying {
    before: Option<(File, Termios)>,
    input: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
}

impl Relay {
    /// For the streams of this process. Also says what the program gets.
    pub(super) fn of_caller() -> io::Result<(Self, Stdio)> {
        let own = [
            io::stdin().as_fd().try_clone_to_owned()?,
            io::stdout().as_fd().try_clone_to_owned()?,
            io::stderr().as_fd().try_clone_to_owned()?,
        ];
        let [stdin, stdout, stderr] = &own;
        let routes = routes([terminal(stdin)?, terminal(stdout)?, terminal(stderr)?]);
        Self::new(routes, own)
    }

    fn new(routes: [Route; 3], own: [OwnedFd; 3]) -> io::Result<(Self, Stdio)> {
        let keys = routes[0] == Route::Terminal;
        let mut relay = Self { keys, input: None, outputs: Vec::new(), screen: None };
        let terminal = routes.contains(&Route::Terminal).then(|| open_terminal(keys)).transpose()?;
        let [stdin, stdout, stderr] = own.map(File::from);
        let stdin = match (routes[0], &terminal) {
            (Route::Terminal, Some((master, slave))) => {
                relay.input = Some((stdin, master.try_clone()?));
                slave.try_clone()?
            }
            (Route::Pipe, _) => {
                let (read, write) = io::pipe()?;
                relay.input = Some((stdin, OwnedFd::from(write).into()));
                read.into()
            }
            _ => stdin.into(),
        };
        let mut output = |route, own: File| -> io::Result<OwnedFd> {
            match (route, &terminal) {
                (Route::Terminal, Some((master, slave))) => {
                    // Once is enough: what both write comes out in its order.
                    if relay.screen.is_none() {
                        relay.screen = Some((master.try_clone()?, own.try_clone()?));
                        relay.outputs.push((master.try_clone()?, own));
                    }
                    slave.try_clone()
                }
                (Route::Pipe, _) => {
                    let (read, write) = io::pipe()?;
                    relay.outputs.push((OwnedFd::from(read).into(), own));
                    Ok(write.into())
                }
                _ => Ok(own.into()),
            }
        };
        let (stdout, stderr) = (output(routes[1], stdout)?, output(routes[2], stderr)?);
        relay.resize();
        Ok((relay, Stdio { stdin, stdout, stderr, events: None }))
    }

    /// Whether the program's standard input is a terminal.
    pub(super) fn keys(&self) -> bool {
        self.keys
    }

    fn resize(&self) {
        if let Some((screen, own)) = &self.screen
            && let Ok(size) = tcgetwinsize(own)
        {
            let _ = tcsetwinsize(screen, size);
        }
    }

    /// Relays in both directions until the program has closed its side.
    pub(super) fn start(mut self) -> io::Result<Relaying> {
        let input = self.input.take();
        let mut before = None;
        if self.keys
            && let Some((own, screen)) = &input
        {
            let usual = tcgetattr(own)?;
            // The same keys erase and interrupt in there.
            tcsetattr(screen, OptionalActions::Now, &usual)?;
            let mut raw = usual.clone();
            raw.make_raw();
            before = Some((own.try_clone()?, usual));
            tcsetattr(own, OptionalActions::Now, &raw)?;
        }
        let keys = self.keys;
        let input = input.map(|(own, sink)| thread::spawn(move || type_in(own, sink, keys)));
        let outputs = self.outputs.drain(..).map(|(from, to)| thread::spawn(move || pump(from, to))).collect();
        if self.screen.is_some() {
            // Blocked in every thread (`system::stop`), so that the one that waits gets it.
            let resized = SigSet::from(Signal::SIGWINCH);
            thread::spawn(move || {
                while resized.wait().is_ok() {
                    self.resize();
                }
            });
        }
        Ok(Relaying { before, input, outputs })
    }
}

impl Relaying {
    /// Waits for what the program has printed last, once all that could print is gone. From then on, what is typed is the caller's.
    pub(super) fn finish(mut self) {
        let threads = self.input.take().into_iter().chain(self.outputs.drain(..));
        threads.for_each(|relaying| drop(relaying.join()));
    }
}

impl Drop for Relaying {
    fn drop(&mut self) {
        if let Some((own, before)) = &self.before {
            // What was typed meanwhile stays.
            let _ = tcsetattr(own, OptionalActions::Drain, before);
        }
    }
}

/// Our side of a new terminal, and the program's. Where it gets no `keys`, it cannot read from there, and the caller's own terminal
/// makes lines of what it prints.
fn open_terminal(keys: bool) -> io::Result<(File, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let access = if keys { OFlags::RDWR } else { OFlags::WRONLY };
    let slave = rustix::fs::open(name, access | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    if !keys {
        let mut plain = tcgetattr(&slave)?;
        plain.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&slave, OptionalActions::Now, &plain)?;
    }
    Ok((master.into(), slave))
}

/// How often it is looked whether typed lines are for this process again, in milliseconds.
const MOMENT: u16 = 100;

/// Hands on what is typed until the program's side is closed: then what is typed is for others.
fn type_in(mut own: File, mut sink: File, keys: bool) {
    // In the background, reading would stop smidr as a whole; without the signal it is an error.
    let _ = SigSet::from(Signal::SIGTTIN).thread_block();
    let mut buffer = [0; 4096];
    loop {
        let (typed, closed) = wait_for_either(&own, &sink);
        if closed {
            return;
        }
        if !is_our_turn(&own, keys) {
            let mut only = [PollFd::new(sink.as_fd(), PollFlags::empty())];
            let _ = poll(&mut only, MOMENT);
            continue;
        }
        match files::read_part(&mut own, &mut buffer) {
            Ok([]) => return,
            Ok(part) if sink.write_all(part).is_err() => return,
            Ok(_) => {}
            // The terminal is gone.
            Err(_) if typed.contains(PollFlags::POLLHUP) => return,
            Err(_) => {}
        }
    }
}

/// What there is to be read, and whether the other side is closed.
fn wait_for_either(own: &File, sink: &File) -> (PollFlags, bool) {
    let mut both = [PollFd::new(own.as_fd(), PollFlags::POLLIN), PollFd::new(sink.as_fd(), PollFlags::empty())];
    // An error of poll(2) is a signal, after which there is nothing yet.
    let _ = poll(&mut both, PollTimeout::NONE);
    let [typed, closed] = both.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    (typed, !closed.is_empty())
}

/// Whether what is typed is for us: not while we are in the background, and not where another program takes keys, as a pager does that
/// shows what the program prints.
fn is_our_turn(own: &File, keys: bool) -> bool {
    let foreground = tcgetpgrp(own).map_or(true, |group| group == rustix::process::getpgrp());
    let lines = keys || tcgetattr(own).is_ok_and(|modes| modes.local_modes.contains(LocalModes::ICANON));
    foreground && lines
}

/// Copies without waiting for more than there is, until one side is gone: a terminal's end is an error (EIO).
fn pump(mut from: File, mut to: File) {
    let mut buffer = [0; 4096];
    while let Ok(part @ [_, ..]) = files::read_part(&mut from, &mut buffer) {
        if to.write_all(part).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_terminal_is_handed_over() {
        use Route::{Own, Pipe, Terminal};
        let (t, u, no) = (Some(1), Some(2), None);
        let rows = [
            ([no, no, no], [Own, Own, Own]),
            ([t, t, t], [Terminal, Terminal, Terminal]),
            ([t, t, no], [Terminal, Terminal, Own]),
            // `… | less`: keys are for what stands behind the pipe.
            ([t, no, t], [Pipe, Own, Terminal]),
            ([t, no, no], [Pipe, Own, Own]),
            // `… </dev/null`: colours, and nothing to read.
            ([no, t, t], [Own, Terminal, Terminal]),
            ([no, t, no], [Own, Terminal, Own]),
            ([no, no, t], [Own, Own, Terminal]),
            // More than one terminal.
            ([t, u, u], [Pipe, Terminal, Terminal]),
            ([t, t, u], [Terminal, Terminal, Pipe]),
            ([no, t, u], [Own, Terminal, Pipe]),
        ];
        for (terminals, expected) in rows {
            assert_eq!(routes(terminals), expected, "{terminals:?}");
        }
        for bits in 0..27 {
            let terminals = [bits % 3, bits / 3 % 3, bits / 9].map(|number| (number > 0).then_some(number));
            for (terminal, route) in terminals.into_iter().zip(routes(terminals)) {
                assert_eq!(terminal.is_some(), route != Own, "{terminals:?}");
            }
        }
    }
}
