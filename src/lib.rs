#![doc = include_str!("ARCHITECTURE.md")]
// Nothing is taken out of a value by an index that could be wrong: most values are foreign.
#![warn(clippy::indexing_slicing, clippy::string_slice)]

pub mod model;

pub mod events;
pub mod system;

pub mod config;

pub mod lock;
pub mod plan;

pub mod project;
pub mod settings;

pub mod artifacts;
pub mod bitbake;
pub mod image;
pub mod layers;
pub mod sandbox;

pub mod queue;

pub mod engine;

pub mod history;

pub mod worker;

pub mod executors;

pub mod service;

pub mod cli;
