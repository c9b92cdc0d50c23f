//! What a branch or a tag of a repository is now, where more than its layers is read.

use super::{Access, GitError, LayerError, Repository, Store, git_error::Instead};
use crate::plan::{PlannedGit, Submodules};

impl Store {
    /// Brings the commit that a branch or a tag means now; a full id is that commit.
    ///
    /// # Errors
    ///
    /// When no server has it, or it cannot be written out.
    pub(crate) fn bring_reference(
        &self,
        url: &str,
        reference: &str,
        access: Access<'_>,
    ) -> Result<Repository, LayerError> {
        let bring = |commit: Option<&str>, branch: Option<&str>, tag: Option<&str>| {
            let wanted = PlannedGit {
                url: url.into(),
                mirrors: Vec::new(),
                branch: branch.map(String::from),
                tag: tag.map(String::from),
                commit: commit.and_then(|id| id.parse().ok()),
                patches: Vec::new(),
                outside_links: false,
                submodules: Submodules::None,
                without_branch: crate::config::WithoutBranch::Fail,
                pinned: None,
            };
            self.bring_git("config", &wanted, false, access)
        };
        if reference.parse::<crate::model::CommitId>().is_ok() {
            return bring(Some(reference), None, None);
        }
        match bring(None, Some(reference), None) {
            Err(LayerError::Git(GitError::Unknown { instead: Some(Instead::Other("tag")), .. })) => {
                bring(None, None, Some(reference))
            }
            done => done,
        }
    }
}
