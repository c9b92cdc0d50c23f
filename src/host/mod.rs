//! This machine: paths, processes, signals, locks and files. Knows nothing about builds.

pub mod files;
pub mod lock;
pub mod process;
pub mod rooted;
