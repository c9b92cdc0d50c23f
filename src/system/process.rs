//! Starting processes that must not outlive smidr.
//!
//! "Kill me when my parent dies" means the parent's *thread* (`prctl(2)`, PR_SET_PDEATHSIG), so every child is started by one
//! thread that never ends. It is also the only place where descriptors are made inheritable, so that no two starts can leak
//! into each other.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, ExitCode},
    sync::mpsc,
    thread,
};

use rustix::io::{FdFlags, fcntl_setfd};

/// The hidden first argument that makes our binary a wrapper: it asks to die with its parent, then becomes the program.
const WRAPPER: &str = "__die-with-parent";

/// Files that may be open at once: an image may have hundreds of layers, each with locks, a beginning and a folder.
const OPEN_FILES: u64 = 16_384;

/// Raises this process's limit of open files, usually 1024, as far as allowed. Programs in a sandbox get the usual limit again.
pub fn allow_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < OPEN_FILES.min(hard)
    {
        // If refused, everything that needs fewer still works.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard);
    }
}

/// Starts processes. Cheap to clone; its thread ends with the last clone.
#[derive(Clone)]
pub struct Spawner {
    orders: mpsc::Sender<Order>,
    /// Our own binary, at the path under which it was installed: AppArmor profiles attach by path.
    own_binary: PathBuf,
}

struct Order {
    command: Command,
    inherit: Vec<OwnedFd>,
    answer: mpsc::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can be no more threads, or our own binary cannot be found.
    pub fn start() -> io::Result<Self> {
        Self::with_binary(std::env::current_exe()?)
    }

    /// As [`Spawner::start`], with the path of smidr's binary: tests run in another one.
    ///
    /// # Errors
    ///
    /// When there can be no more threads.
    pub fn with_binary(own_binary: PathBuf) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new().name("spawner".into()).spawn(move || {
            for Order { mut command, inherit, answer } in inbox {
                let inheritable = inherit.iter().try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()));
                let child = inheritable.map_err(io::Error::from).and_then(|()| command.spawn());
                // Closed before the next start.
                drop(inherit);
                // The receiver may be gone.
                let _ = answer.send(child);
            }
        })?;
        Ok(Self { orders, own_binary })
    }

    /// A command that runs our own binary.
    pub fn own_command(&self) -> Command {
        Command::new(&self.own_binary)
    }

    /// A command that dies with smidr.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.own_command();
        command.arg(WRAPPER).arg(std::process::id().to_string()).arg(program);
        command
    }

    /// Starts a command. The descriptors in `inherit` stay open in it under their numbers.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn spawn(&self, command: Command, inherit: Vec<OwnedFd>) -> io::Result<Child> {
        let (answer, result) = mpsc::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.orders.send(Order { command, inherit, answer }).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }
}

/// Does what a process cannot go on without: a panic in it ends the process, so that whatever started the process starts it again.
pub fn vital<T>(work: impl FnOnce() -> T) -> T {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            if thread::panicking() {
                std::process::abort();
            }
        }
    }
    let _ends = Ends;
    work()
}

/// Becomes the wrapper if this process was started as one. To be called at the start of `main`.
pub fn wrapper_main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()?.to_str() != Some(WRAPPER) {
        return None;
    }
    let parent: u32 = args.next()?.to_str()?.parse().ok()?;
    let program: OsString = args.next()?;
    let asked = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    if asked.is_err() || std::os::unix::process::parent_id() != parent {
        return Some(ExitCode::from(125));
    }
    // smidr blocks the signals that it waits for; other programs must receive them. exec() resets SIGPIPE by itself.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let error = Command::new(&program).args(args).exec();
    // 126 and 127 as in a shell (POSIX, "Exit Status for Commands").
    Some(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }))
}
