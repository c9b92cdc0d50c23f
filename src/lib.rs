#![doc = include_str!("ARCHITECTURE.md")]
// Nothing is taken out of a value by an index that could be wrong: most values are foreign.
#![warn(clippy::indexing_slicing, clippy::string_slice)]

pub mod model;

pub mod events;
pub mod system;

pub mod config;

pub mod bitbake_setup;
pub mod kas;
pub mod lock;
pub mod plan;
pub mod repo_manifest;

mod diagnose;

mod settings;

mod artifacts;
mod bitbake;
pub mod image;
pub mod layers;
pub mod sandbox;

mod project;

mod recipes;

mod queue;

mod engine;

mod history;

mod worker;

mod executors;

mod service;

mod daemon;

mod rpc;

pub mod cli;
