//! What a build will do, as a value. Pure: what it needs to know of this machine comes in as facts.

mod build;
mod conf;
mod folders;
mod rooms;
mod sandbox;

pub use build::{Plan, PlanError, PlannedHost, PlannedLayer, PlannedSource, make};
pub use conf::CA_BUNDLE;
pub use folders::Folders;
pub use rooms::Placed;
pub use sandbox::{Ids, MountOp, Payload, Resources, Root, SandboxSpec, Through};
