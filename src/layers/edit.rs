//! Working copies of git layers, for the user to edit. In goes a commit of a mirror with patches, out comes a git repository of the user's;
//! later, what has been done in it. Made by the host's git, which no network is needed for. What it holds is the user's: nothing of it
//! is ever changed or removed here.
//!
//! Looking at one runs nothing that its own configuration names: it may have come with a project.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    access::Access,
    fetch::{WITHOUT, program},
    git_error::shown,
    gitlinks, local,
    patch::ReadPatch,
};
use crate::{
    model::{CommitId, Hint, Kind, UserError, without_secrets},
    system::files::{self, FileError, shell},
};

/// The branch of a working copy.
pub const BRANCH: &str = "smidr-edit";

/// Where the user's work begins.
const BASE: &str = "refs/smidr/base";

/// Who commits the patches of a config.
const COMMITTER: [(&str, &str); 4] = [
    ("GIT_COMMITTER_NAME", "smidr"),
    ("GIT_COMMITTER_EMAIL", "smidr@localhost"),
    ("GIT_AUTHOR_NAME", "smidr"),
    ("GIT_AUTHOR_EMAIL", "smidr@localhost"),
];

/// What is to be copied.
pub struct Original<'a> {
    /// Its address.
    pub url: &'a str,
    /// The bare repository that has the commit.
    pub mirror: &'a Path,
    /// The commit.
    pub commit: &'a CommitId,
    /// What the config puts on top.
    pub patches: &'a [ReadPatch],
    /// The branch that is made of it; none: no branch.
    pub branch: Option<&'a str>,
}

/// What has been done in a working copy.
#[derive(Debug)]
pub struct Work {
    /// Its newest commit.
    pub head: CommitId,
    /// Commits on top of what it began with, the oldest first: their ids and subjects.
    pub commits: Vec<(CommitId, String)>,
    /// Whether something in it is not committed.
    pub dirty: bool,
}

/// Why there is no working copy, or nothing can be said of it.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no git.
    #[error("a layer is edited with git, and there is none on this machine")]
    NoGit,
    /// git cannot do it.
    #[error("git cannot {what} in {}: {said}", folder.display())]
    Git {
        /// What it was to do.
        what: &'static str,
        /// Where.
        folder: PathBuf,
        /// Its words.
        said: String,
    },
    /// A patch of the config that git cannot apply.
    #[error("git cannot apply the patch {patch}: {said}")]
    Patch {
        /// As the config has it.
        patch: String,
        /// Its words.
        said: String,
    },
    /// No repository.
    #[error("{} holds something that is no git repository", .0.display())]
    NoRepository(PathBuf),
    /// Not made here.
    #[error("{} was not made by `smidr layers edit`", .0.display())]
    Other(PathBuf),
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for EditError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoGit => Kind::Host,
            Self::Patch { .. } | Self::Other(_) | Self::NoRepository(_) => Kind::Request,
            Self::Git { .. } => Kind::Outside,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::NoGit => vec![Hint::command("install git", "sudo apt-get install git")],
            Self::Patch { .. } => {
                vec![Hint::new("take it out of `patches:` while you edit, and commit its change yourself")]
            }
            Self::Other(folder) => vec![Hint::command("what it is", format!("git -C {} log -1", shell(folder)))],
            Self::NoRepository(folder) => vec![Hint::command("move it away", format!("mv {0} {0}.old", shell(folder)))],
            Self::Git { .. } => Vec::new(),
            Self::File(error) => error.hints(),
        }
    }
}

/// Makes a working copy in a folder that is not there yet, whole or not at all. Gives the folders of its submodules, which stay empty.
///
/// # Errors
///
/// When git cannot do it, or a patch does not apply.
pub fn copy(original: &Original<'_>, into: &Path, access: Access<'_>) -> Result<Vec<PathBuf>, EditError> {
    let name = into.file_name().unwrap_or_default().to_string_lossy();
    let half = into.with_file_name(format!(".{name}.smidr-{}", std::process::id()));
    let parent = into.parent().unwrap_or(into);
    fs::create_dir_all(parent).map_err(FileError::new("make the folder", parent))?;
    let made = fill(original, &half, access).and_then(|links| {
        fs::rename(&half, into).map(|()| links).map_err(|e| FileError::new("rename to", into)(e).into())
    });
    if made.is_err() {
        let _ = files::remove_tree(&half);
    }
    let links = made?;
    Ok(links.iter().filter_map(|link| link.strip_prefix(&half).ok()).map(Path::to_path_buf).collect())
}

fn fill(original: &Original<'_>, folder: &Path, access: Access<'_>) -> Result<Vec<PathBuf>, EditError> {
    fs::create_dir(folder).map_err(FileError::new("make the folder", folder))?;
    let git = Git::find(folder, access)?;
    git.run("begin a repository", &["init", "-q", "--template="])?;
    git.run("name its origin", &["remote", "add", "origin", &without_secrets(original.url)])?;
    check_out(&git, original, false)?;
    git.run("note where it begins", &["update-ref", BASE, "HEAD"])?;
    Ok(gitlinks(folder).unwrap_or_default())
}

/// Moves a repository to another commit. Programs that it names itself are not run.
///
/// # Errors
///
/// When git cannot do it, or a patch does not apply.
pub(super) fn move_to(
    original: &Original<'_>,
    folder: &Path,
    force: bool,
    access: Access<'_>,
) -> Result<(), EditError> {
    let git = Git::find(folder, access)?;
    check_out(&git, original, force)?;
    git.run("note where it begins", &["update-ref", BASE, "HEAD"]).map(drop)
}

fn check_out(git: &Git<'_>, original: &Original<'_>, force: bool) -> Result<(), EditError> {
    let Original { mirror, commit, patches, branch, .. } = original;
    let (commit, mirror) = (commit.to_string(), mirror.as_os_str());
    // By its id: the mirror need not have a branch there.
    let served = "--upload-pack=git -c uploadpack.allowAnySHA1InWant=true upload-pack";
    let fetch = ["fetch", "-q", "--no-tags", "--update-shallow", served].map(OsStr::new);
    git.run("copy the commit", &[&fetch[..], &[mirror, commit.as_ref()]].concat())?;
    let place = branch.map_or_else(|| vec!["--detach"], |branch| vec!["-B", branch]);
    let forced = force.then_some("--force");
    let words = ["checkout", "-q"].into_iter().chain(forced).chain(place).chain([commit.as_str()]);
    git.run("check the commit out", &words.collect::<Vec<_>>())?;
    patches.iter().try_for_each(|patch| git.commit(patch))
}

/// What has been done in a working copy.
///
/// # Errors
///
/// When it is none, or cannot be read.
pub fn look(folder: &Path, access: Access<'_>) -> Result<Work, EditError> {
    let git = Git::find(folder, access)?;
    let other = || EditError::Other(folder.into());
    git.inspect("look", &["rev-parse", "--verify", "-q", BASE]).map_err(|_| other())?;
    let (head, dirty) = local::state(folder, folder).ok_or_else(other)?;
    let range = format!("{BASE}..HEAD");
    let log =
        git.inspect("list the commits", &["log", "--reverse", "--no-show-signature", "--format=%H %s", &range])?;
    let commit = |line: &str| {
        let (id, subject) = line.split_once(' ').unwrap_or((line, ""));
        Some((id.parse().ok()?, subject.to_owned()))
    };
    Ok(Work { head, commits: log.lines().filter_map(commit).collect(), dirty })
}

/// Writes a patch for each commit of a working copy into a folder. Gives their paths in order. Merges have none.
///
/// # Errors
///
/// When git cannot write them.
pub fn write_patches(folder: &Path, into: &Path, access: Access<'_>) -> Result<Vec<PathBuf>, EditError> {
    let git = Git::find(folder, access)?;
    let (into, range) = (into.as_os_str(), format!("{BASE}..HEAD"));
    let plain = ["--no-ext-diff", "--no-textconv", "--binary", "--no-signature", "--src-prefix=a/", "--dst-prefix=b/"];
    let mut arguments: Vec<&OsStr> = vec!["format-patch".as_ref()];
    arguments.extend(plain.iter().map(OsStr::new));
    arguments.extend(["-o".as_ref(), into, range.as_ref()]);
    let written = git.inspect("write the patches", &arguments)?;
    Ok(written.lines().map(PathBuf::from).collect())
}

struct Git<'a> {
    program: PathBuf,
    folder: &'a Path,
    access: Access<'a>,
}

impl<'a> Git<'a> {
    fn find(folder: &'a Path, access: Access<'a>) -> Result<Self, EditError> {
        Ok(Self { program: program(access).ok_or(EditError::NoGit)?, folder, access })
    }

    /// Runs git in a repository that was made just now, with the user's configuration.
    fn run(&self, what: &'static str, arguments: &[impl AsRef<OsStr>]) -> Result<String, EditError> {
        let mut command = self.command();
        command.arg("-C").arg(self.folder).args(arguments);
        self.finish(what, command)
    }

    /// Runs git on a repository that may have come from anywhere: no work tree, no transport, no configuration but the repository's, of which
    /// these commands obey nothing that is a program.
    fn inspect(&self, what: &'static str, arguments: &[impl AsRef<OsStr>]) -> Result<String, EditError> {
        let mut command = self.command();
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_OPTIONAL_LOCKS", "0");
        command.args(["-c", "protocol.allow=never", "-c", "core.fsmonitor=false", "--no-pager"]);
        command.arg("--git-dir").arg(self.folder.join(".git")).args(arguments);
        self.finish(what, command)
    }

    fn command(&self) -> Command {
        let mut command = self.access.spawner.command(&self.program);
        command.env_clear().envs(self.access.environment.iter().map(|(name, value)| (name, value)));
        for name in WITHOUT {
            command.env_remove(name);
        }
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        command.args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "commit.gpgSign=false",
            "-c",
            "gc.auto=0",
            "-c",
            "core.fsmonitor=false",
        ]);
        command
    }

    fn finish(&self, what: &'static str, mut command: Command) -> Result<String, EditError> {
        let failed = |said: String| EditError::Git { what, folder: self.folder.into(), said };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = self.access.spawner.spawn(command, Vec::new());
        let done =
            spawned.and_then(std::process::Child::wait_with_output).map_err(|error| failed(error.to_string()))?;
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            false => Err(failed(shown(String::from_utf8_lossy(&done.stderr).trim()))),
        }
    }

    /// Commits a patch of the config: mails as they are, any other one under its name.
    fn commit(&self, patch: &ReadPatch) -> Result<(), EditError> {
        let file = self.folder.join(".git/smidr-patch");
        fs::write(&file, &patch.text).map_err(FileError::new("write", &file))?;
        let run = |arguments: &[&str], of_file: bool| {
            let mut command = self.command();
            command.envs(COMMITTER).arg("-C").arg(self.folder).args(arguments).args(of_file.then_some(&file));
            self.finish("apply a patch", command).map_err(|error| match error {
                EditError::Git { said, .. } => EditError::Patch { patch: patch.lock.file.clone(), said },
                error => error,
            })
        };
        if patch.text.starts_with(b"From ") {
            run(&["am", "-q", "--keep-cr", "--whitespace=nowarn"], true)?;
        } else {
            run(&["apply", "--index", "--whitespace=nowarn"], true)?;
            run(&["commit", "-q", "-m", &format!("Apply {}", patch.lock.file)], false)?;
        }
        fs::remove_file(&file).map_err(FileError::new("remove", &file)).map_err(Into::into)
    }
}
