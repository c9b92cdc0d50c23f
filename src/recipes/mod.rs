//! Rootfs recipes: how a build-host image is made of packages, or of another image. Found, read, and made here.

mod apt;
mod build;
mod find;
mod packages;
mod recipe;
mod steps;

pub(crate) use build::{ImageBuildError, PACKAGES_LABEL, RECIPE_LABEL, build, identity, is_made_of};
pub(crate) use find::{FoundRecipe, RecipeError, at, find, is_shipped, known, planned, shipped, submit};
pub(crate) use recipe::Base;

use crate::{
    events::Emitter,
    image::ImageStore,
    model::{Paths, SystemFacts},
    system::{process::Spawner, stop::StopToken},
};

/// What making an image needs.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Shared folders.
    pub paths: &'a Paths,
    /// This machine and its caller.
    pub facts: &'a SystemFacts,
    /// Images.
    pub store: &'a ImageStore,
    /// Starts processes.
    pub spawner: &'a Spawner,
    /// Whether to stop.
    pub stop: &'a StopToken,
    /// Receives events.
    pub on: &'a Emitter,
}
