//! Tests of the store as its users see it, and of what hostile archives do to it.

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
