#![doc = include_str!("ARCHITECTURE.md")]

pub mod model;

// What reads what a build, an image or a layer wrote takes nothing out of a value by an index that could be wrong.
#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod events;
pub mod host;

pub mod config;

#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod lock;
pub mod plan;

pub mod project;
pub mod settings;

#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod artifacts;
#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod bitbake;
pub mod image;
pub mod layers;
pub mod sandbox;

pub mod engine;

#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod history;

#[warn(clippy::indexing_slicing, clippy::string_slice)]
pub mod service;

pub mod cli;
