//! The API: `smidr.proto`, its conversion to and from the words of `model`, checked at the border, the server and the client.

mod admin;
mod auth;
pub(crate) mod authority;
mod batch;
mod blobs;
mod came;
pub(crate) mod client;
mod convert;
mod download;
mod feed;
pub(crate) mod handover;
mod http;
mod lease;
mod listen;
mod probes;
mod records;
pub(crate) mod run;
mod server;
pub(crate) mod sockets;
mod status;
mod submission;
mod systemd;

/// The generated code. Made by `SMIDR_UPDATE_API=1 cargo test api::`.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    reason = "generated"
)]
pub(crate) mod proto {
    include!("generated/smidr.v1.rs");
}

pub(crate) use convert::{time as proto_time, time_of};
pub(crate) use submission::request;

/// What reflection serves.
pub(crate) const DESCRIPTOR: &[u8] = include_bytes!("generated/smidr.bin");
