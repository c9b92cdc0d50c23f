//! Runs a program in namespaces of its own, as an ordinary user, with nothing but the kernel.
//!
//! Starts a [`Sandbox`] from a [`SandboxSpec`](crate::plan::SandboxSpec). The helper is a re-exec of our own binary
//! ([`helper_main`]), because a process with threads cannot enter a user namespace, and hardly anything is allowed between `fork` and
//! `exec` of a process with threads (`unshare(2)`, `fork(2)`).
//!
//! ```text
//! smidr ── spawns ──> helper: enters the namespaces, writes the id maps, forks
//!                        └──> init: PID 1: mounts, pivot_root, forks, then reaps and forwards signals
//!                                └──> payload: drops capabilities, execs
//! ```
//!
//! The end of any process of this chain ends the rest: helper and init get SIGKILL when their parent dies, init also watches a pipe
//! that only smidr holds, and the kernel ends a PID namespace with its PID 1.

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
