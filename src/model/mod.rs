//! The nouns of smidr: values that every other module may hold.
//!
//! In goes nothing but text and numbers, out come validated types. No I/O, no clock, no async, no environment.

mod address;
mod artifact;
mod ask;
mod build_id;
mod commit;
mod diagnosis;
mod digest;
pub mod document_path;
mod event;
mod facts;
mod foreign;
mod hint;
mod logins;
mod outcome;
mod paths;
mod recovery;
mod request;
mod resources;
mod secret;
mod spelling;
mod submission;
mod texts;
mod user_error;
mod warning;

pub use address::{address_of, folder_of, is_ambiguous, last_part, scp_parts, with_secrets_of, without_secrets};
pub use artifact::{Artifact, leads_out};
pub use ask::{Ask, asks_digest};
pub use build_id::{BuildId, InvalidName};
pub use commit::{CommitId, InvalidCommit};
pub use diagnosis::{Certainty, Diagnosis, Quote, SourcePlace};
pub use digest::{Digest, InvalidDigest};
pub use event::{Activity, Event, Level, Place, Record, Stage, TaskName, Unit, recipe_parts};
pub use facts::{CUSTOMER, RemoteCaller, SubordinateIds, SystemFacts};
pub use foreign::Shown;
#[cfg(test)]
pub use foreign::danger;
pub use hint::{Action, Hint};
pub use logins::Logins;
pub use outcome::{ConfigPlace, FailedTask, Outcome, State};
pub use paths::{FOLDER_MARK, Paths, without_dots};
pub use recovery::{Recovered, Recovery};
pub use request::BuildRequest;
pub use resources::{Limits, PeakOf, Usage};
pub use secret::Secrets;
pub use submission::{FileContent, Group, Origin, Share, Submission, SubmittedLayer, SubmittedLocal, SubmittedRecipe};
pub use user_error::{Kind, UserError};
pub use warning::{WarnedPlace, WarningGroup};
