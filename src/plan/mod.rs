//! The plan of a build, as a value. Pure: this machine is described by facts.

mod asks;
mod build;
mod conf;
mod domain;
mod folders;
mod guarded;
mod inputs;
mod mount_guard;
mod mounts;
mod provider;
mod sandbox;
mod sources;

pub use asks::asks;
pub use build::{Plan, PlanError, PlannedAsIs, PlannedHost, check_path, is_hidden, is_workspace_of, make};
pub use conf::{BY_ENVIRONMENT, CA_BUNDLE};
pub use domain::{Caches, Domain};
pub use folders::Folders;
pub use guarded::Guarded;
pub use inputs::{GIT_CONFIG, Input, InputError, OffLimits, PlacedInput, What, git_config, in_the_way};
pub use mount_guard::{Exposed, check as check_mounts, protect};
pub use mounts::{EMPTY_FILE, EMPTY_FOLDER, OwnRepository, Placed};
pub use provider::PlannedProvider;
pub use sandbox::{Ids, Isolation, MountOp, Payload, Resources, Root, SandboxSpec, Through, id_map, usual_tasks};
pub use sources::{
    NotSent, PlannedGit, PlannedLayer, PlannedPatch, PlannedPath, PlannedSource, SENT_LAYERS, Submodules, continues,
    describe, sent_folder,
};
