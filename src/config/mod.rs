//! The user's `smidr.yaml`: text in, a checked [`Config`] or every problem at once out.
//!
//! Pure: reads no file and no environment; variables come through a lookup that the caller gives. What depends on this machine,
//! such as a layer folder that is missing, is found by whoever needs it.

pub mod decode;
mod host;
mod inputs;
pub mod node;
pub mod problem;
pub mod provider;
mod read;
mod schema;
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
pub use values::Size;
