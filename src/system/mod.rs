//! This machine: paths, processes, signals, locks and files; nothing about builds.

pub mod cgroup;
pub mod crash_check;
pub mod facts;
pub mod files;
pub mod filesystem;
pub mod kernel;
pub mod limits;
pub mod lines;
pub mod lock;
pub mod logout;
pub mod mounts;
pub mod oom;
pub mod overlay;
pub mod paths;
pub mod process;
pub mod removal;
pub mod repository;
pub mod rooted;
pub mod scratch;
pub mod sockets;
pub mod space;
pub mod stop;
pub mod trail;
pub(crate) mod zone;
