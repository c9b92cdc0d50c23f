//! Runs a program in namespaces of its own, as an ordinary user, with nothing but the kernel.
//!
//! In goes a [`SandboxSpec`](crate::plan::SandboxSpec), out comes a running [`Sandbox`]. The helper is a re-exec of our own
//! binary ([`helper_main`]), because a process with threads cannot enter a user namespace, and because between `fork` and `exec`
//! of a process with threads hardly anything is allowed (`unshare(2)`, `fork(2)`).
//!
//! ```text
//! smidr ── spawns ──> helper: enters the namespaces, writes the id maps, forks
//!                        └──> init: PID 1: mounts, pivot_root, forks, then reaps and forwards signals
//!                                └──> payload: drops capabilities, execs
//! ```
//!
//! Whoever dies takes the rest along: the helper and init have asked the kernel for SIGKILL when their parent dies, init
//! also watches a pipe that only smidr holds, and the end of PID 1 is the end of everything in its PID namespace.

mod bpf;
mod denied;
mod descendants;
mod emulation;
mod error;
mod idmap;
mod init;
mod launch;
mod lockdown;
mod merge;
mod mounts;
mod obstacle;
mod pid1;
mod resources;
mod shutdown;
mod signs;
mod sys;

pub use error::{Report, SandboxError, StepFailure, Tasks, Verified};
pub use init::helper_main;
pub use launch::{Control, Exit, LONGEST_END, Sandbox, Stdio, launch};
pub use obstacle::{Obstacle, Remedy};
pub use sys::privileged_by_file;
