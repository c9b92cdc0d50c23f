//! This machine: paths, processes, signals, locks and files. Knows nothing about builds.

pub mod facts;
pub mod files;
pub mod filesystem;
pub mod kernel;
pub mod limits;
pub mod lock;
pub mod mounts;
pub mod overlay;
pub mod paths;
pub mod process;
pub mod rooted;
pub mod stop;
