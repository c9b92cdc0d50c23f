//! What old builds have left behind goes: artifacts, records and logs of failed tasks. That they were is still known.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{LocalService, ServiceError};
use crate::{
    engine::{self, keep::SEAL},
    executors::LOG,
    history::{
        BuildRecord,
        journal::{COMPRESSED, JOURNAL},
    },
    model::BuildId,
    system::{files::remove_tree, lock},
    worker::SUBMISSION,
};

/// How long a worker may take to write its first record: it waits for nothing.
const START: Duration = Duration::from_secs(600);

/// What may go. At least one of the two, or nothing does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clean {
    /// Only builds of the project with this config; else those of all.
    pub project: Option<PathBuf>,
    /// How many builds of each project and variant stay, the newest: so many that left artifacts, and so many that did not.
    pub keep: Option<usize>,
    /// Only what builds left that ended longer ago.
    pub older_than: Option<Duration>,
    /// Say what would go, and keep it.
    pub dry_run: bool,
}

impl LocalService<'_> {
    /// Removes builds with all that is known of them, and what they left behind, by a policy; never one that runs. Gives the builds, and the bytes that went with each. What was
    /// submitted and never began goes too.
    ///
    /// # Errors
    ///
    /// When the index cannot be read or written, or something cannot be removed.
    pub(crate) fn prune(&self, policy: &Clean, now: Timestamp) -> Result<Vec<(BuildRecord, u64)>, ServiceError> {
        let gone = self.remove_all(chosen(self.list(u32::MAX)?, policy, now), policy.dry_run)?;
        if !policy.dry_run {
            self.remove_unbegun()?;
        }
        Ok(gone)
    }

    /// Removes these builds, which are over, with all that is known of them. Gives them, and the bytes that went with each.
    ///
    /// # Errors
    ///
    /// When the index cannot be written, or something cannot be removed.
    pub(crate) fn remove_all(
        &self,
        builds: Vec<BuildRecord>,
        dry_run: bool,
    ) -> Result<Vec<(BuildRecord, u64)>, ServiceError> {
        let mut names = Names::of(&self.paths.kept());
        let mut gone = Vec::new();
        for build in builds {
            let bytes = names.freed_with(&self.paths.build(&build.id));
            if !dry_run {
                self.forget(&build.id)?;
            }
            gone.push((build, bytes));
        }
        if !dry_run {
            engine::sweep(&self.paths.kept())?;
        }
        Ok(gone)
    }

    /// Removes submissions whose worker never wrote a record, and will not: its starter was killed.
    pub(super) fn remove_unbegun(&self) -> Result<(), ServiceError> {
        for entry in fs::read_dir(self.paths.builds()).into_iter().flatten().flatten() {
            let length = |name: &str| fs::metadata(entry.path().join(name)).map_or(0, |found| found.len());
            let age = entry.metadata().ok().and_then(|found| found.modified().ok()?.elapsed().ok());
            let is_begun = length(JOURNAL) + length(COMPRESSED) > 0;
            let Some(Ok(id)) = entry.file_name().to_str().map(str::parse::<BuildId>) else { continue };
            if !is_begun && age.is_some_and(|age| age > START) && lock::holder(&self.paths.alive(&id))?.is_none() {
                self.forget(&id)?;
            }
        }
        Ok(())
    }

    /// Removes what builds have kept, by a policy; never of one that runs. Gives the builds, and the bytes that went with each.
    ///
    /// # Errors
    ///
    /// When the record cannot be read or written, or something cannot be removed.
    pub(crate) fn clean(&self, policy: &Clean, now: Timestamp) -> Result<Vec<(BuildRecord, u64)>, ServiceError> {
        let there = self.list(u32::MAX)?.into_iter().filter(|build| self.has_left(build)).collect();
        self.clean_all(chosen(there, policy, now), policy.dry_run)
    }

    fn has_left(&self, build: &BuildRecord) -> bool {
        !left(&self.paths.build(&build.id)).is_empty()
    }

    /// Removes what these builds, which are over, have kept. Gives those that had something, and the bytes that went with each.
    ///
    /// # Errors
    ///
    /// When the record cannot be written, or something cannot be removed.
    pub(crate) fn clean_all(
        &self,
        builds: Vec<BuildRecord>,
        dry_run: bool,
    ) -> Result<Vec<(BuildRecord, u64)>, ServiceError> {
        let Some(history) = self.history()? else { return Ok(Vec::new()) };
        let mut names = Names::of(&self.paths.kept());
        let mut cleaned = Vec::new();
        for build in builds.into_iter().filter(|build| self.has_left(build)) {
            let folder = self.paths.build(&build.id);
            let left = left(&folder);
            let bytes = left.iter().map(|path| names.freed_with(path)).fold(0, u64::saturating_add);
            if !dry_run {
                // Marked last: what is interrupted is done by the next one.
                left.iter().try_for_each(|path| remove_tree(path))?;
                history.mark_cleaned(&build.id)?;
            }
            cleaned.push((build, bytes));
        }
        if !dry_run {
            engine::sweep(&self.paths.kept())?;
        }
        Ok(cleaned)
    }
}

/// What a build left behind: all in its folder but what is known of it.
fn left(folder: &Path) -> Vec<PathBuf> {
    let known = [JOURNAL, COMPRESSED, SUBMISSION, SEAL, LOG];
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| known.iter().all(|name| entry.file_name() != *name)).map(|entry| entry.path()).collect()
}

/// The names of files that are kept under several: what is freed goes with the last.
struct Names {
    objects: HashSet<(u64, u64)>,
    left: HashMap<(u64, u64), u64>,
}

impl Names {
    /// A name in the folder of objects keeps nothing: it goes after the last other one.
    fn of(objects: &Path) -> Self {
        let entries = fs::read_dir(objects).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        Self { objects: entries.map(|found| (found.dev(), found.ino())).collect(), left: HashMap::new() }
    }

    /// Bytes on the disk that go with a folder, after those that were asked for before.
    fn freed_with(&mut self, folder: &Path) -> u64 {
        let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter_map(|entry| entry.metadata().ok());
        files
            .filter(|file| file.is_file() && self.is_last(file))
            .fold(0, |sum: u64, file| sum.saturating_add(file.blocks().saturating_mul(512)))
    }

    fn is_last(&mut self, file: &fs::Metadata) -> bool {
        let id = (file.dev(), file.ino());
        let own = u64::from(self.objects.contains(&id));
        let left = self.left.entry(id).or_insert_with(|| file.nlink().saturating_sub(own));
        *left = left.saturating_sub(1);
        *left == 0
    }
}

/// `builds` are sorted, the newest first. One that runs neither goes nor counts: who knows how it will end. One that left no artifacts never takes the
/// place of the last good one.
fn chosen(builds: Vec<BuildRecord>, policy: &Clean, now: Timestamp) -> Vec<BuildRecord> {
    let mut kept = Vec::new();
    let mut stays = |build: &BuildRecord| {
        let kind = (
            build.config.clone().ok_or_else(|| build.name.clone()),
            build.variant.clone(),
            build.outcome.as_ref().is_some_and(|outcome| outcome.artifacts > 0),
        );
        let newer = kept.iter().filter(|other| **other == kind).count();
        kept.push(kind);
        policy.keep.is_some_and(|keep| newer < keep)
    };
    let is_young = |build: &BuildRecord| {
        let ended = build.ended.unwrap_or(build.started);
        policy
            .older_than
            // One that ended in the future is young: a clock was set back.
            .is_some_and(|limit| {
                Duration::try_from(now.duration_since(ended)).is_ok_and(|age| age <= limit) || ended > now
            })
    };
    let any = policy.keep.is_some() || policy.older_than.is_some();
    let is_asked = |build: &BuildRecord| policy.project.is_none() || build.config == policy.project;
    let over = builds.into_iter().filter(|build| build.state.is_final() && is_asked(build));
    over.filter(|build| !stays(build) && any && !is_young(build)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildId, Outcome, State};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn what_files_take() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
        file("hole").set_len(1 << 40).expect("a hole");
        fs::write(folder.path().join("one"), vec![1; 1 << 20]).expect("a file");
        fs::hard_link(folder.path().join("one"), folder.path().join("two")).expect("a second name");
        let taken = || Names::of(Path::new("/nowhere")).freed_with(folder.path());
        assert!((1 << 20..1 << 21).contains(&taken()), "{}", taken());
        // What another folder has stays; a name among the objects keeps nothing.
        let beside = tempfile::tempdir().expect("a temporary folder");
        fs::hard_link(folder.path().join("one"), beside.path().join("object")).expect("a third name");
        assert_eq!(taken(), 0);
        let mut names = Names::of(beside.path());
        let [first, second] = ["one", "two"].map(|name| names.freed_with(&folder.path().join(name)));
        assert_eq!(first, 0);
        assert!((1 << 20..1 << 21).contains(&second), "{second}");
    }

    #[test]
    fn variants_count_apart() {
        let of = |variant: &str, record| BuildRecord { variant: Some(variant.into()), ..record };
        let builds = vec![
            of("debug", build(2, "a", 1, State::Completed)),
            build(1, "a", 2, State::Completed),
            of("debug", build(0, "a", 3, State::Completed)),
        ];
        let gone = chosen(builds, &Clean { keep: Some(1), ..Clean::default() }, Timestamp::UNIX_EPOCH);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].id.as_str().starts_with("a-0"), "{gone:?}");
    }

    fn build(number: u32, name: &str, days_ago: u32, state: State) -> BuildRecord {
        let at = Timestamp::UNIX_EPOCH + 100 * DAY - days_ago * DAY;
        let ended = state.is_final().then_some(at);
        let id = BuildId::new(&format!("{name}-{number}"), number).expect("an id");
        BuildRecord {
            id,
            name: name.into(),
            machine: "m".into(),
            targets: vec![],
            state,
            started: at,
            ended,
            outcome: (state == State::Completed).then(|| Outcome { artifacts: 1, ..Outcome::new(state) }),
            variant: None,
            config: None,
            customer: None,
            labels: Default::default(),
            waits: false,
            queued: None,
        }
    }

    #[test]
    fn what_may_go() {
        let all = || {
            vec![
                build(1, "a", 0, State::Building),
                build(2, "a", 1, State::Completed),
                build(3, "b", 2, State::Failed),
                build(4, "a", 3, State::Cancelled),
                build(5, "a", 8, State::Completed),
                build(6, "b", 9, State::Completed),
                build(7, "a", 20, State::Building),
            ]
        };
        let now = Timestamp::UNIX_EPOCH + 100 * DAY;
        for (keep, days, expected) in [
            (None, None, &[][..]),
            (Some(0), None, &["a-2", "b-3", "a-4", "a-5", "b-6"]),
            (Some(1), None, &["a-5"]),
            (Some(2), None, &[]),
            (None, Some(7), &["a-5", "b-6"]),
            (None, Some(8), &["b-6"]),
            (Some(1), Some(7), &["a-5"]),
            (Some(2), Some(7), &[]),
            (Some(9), Some(0), &[]),
        ] {
            let policy = Clean { keep, older_than: days.map(|days: u32| days * DAY), ..Clean::default() };
            let gone: Vec<String> = chosen(all(), &policy, now)
                .iter()
                .map(|build| format!("{}-{}", build.name, build.id.as_str().split('-').nth(1).unwrap_or_default()))
                .collect();
            assert_eq!(gone, expected, "--keep {keep:?} --days {days:?}");
        }
    }
}
