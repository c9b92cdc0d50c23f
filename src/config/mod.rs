//! The user's `smidr.yaml`: parsed into a checked [`Config`], or every problem at once.
//!
//! Pure: reads no file and no environment; the caller gives a lookup for variables. What depends on this machine, such as a missing layer
//! folder, is checked by later stages.

mod as_is;
mod conflict;
pub mod decode;
pub mod edit;
mod host;
mod inputs;
mod json_schema;
pub mod node;
mod place;
pub mod problem;
mod provided;
pub mod provider;
mod read;
mod schema;
pub mod series;
mod source;
mod substitute;
mod texts;
mod values;
mod yaml_error;

pub use conflict::{conflict, sides};
pub use decode::UsedVariable;
pub use inputs::{Bind, Inputs, overlap, refused_dest};
pub use json_schema::{NAME, Schema, schema};
pub use node::{Span, Text};
pub use place::place;
pub use problem::{Problem, Problems, drawn_at, nearest};
pub use read::{PRIVATE, examine, known_keys, read};
pub use schema::*;
pub use source::{BITBAKE, HOST};
pub use texts::{Texts, local_path};
pub use values::{Age, Size};
pub use yaml_error::{problem as yaml_problem, words as yaml_words};
