//! The user's `smidr.yaml`: parsed into a checked [`Config`], or every problem at once.
//!
//! Pure: reads no file and no environment; the caller gives a lookup for variables. What depends on this machine, such as a missing layer
//! folder, is checked by later stages.

pub mod decode;
pub mod edit;
mod host;
mod inputs;
pub mod node;
pub mod problem;
mod provided;
pub mod provider;
mod read;
mod schema;
pub mod series;
mod source;
mod substitute;
mod values;

pub use decode::UsedVariable;
pub use inputs::{Bind, Inputs, overlap, refused_dest};
pub use node::Text;
pub use problem::{Problem, Problems, nearest};
pub use read::{PRIVATE, read};
pub use schema::*;
pub use source::{BITBAKE, HOST};
pub use values::{Age, Size};
