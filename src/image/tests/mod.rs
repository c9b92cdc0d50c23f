//! Tests of the store as its users see it, and of what hostile archives do to it.

#![expect(clippy::disallowed_macros, reason = "documents that tests make of literals")]

mod damaged;
mod hostile;
mod layers;
mod memory;
mod publishing;
mod pulling;
mod sharing;
mod sparse;
mod storing;
mod yard;
