//! Artifacts of a daemon's build, brought here: several at once, each resumed where it broke off, and checked.

use std::{
    io,
    path::Path,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    context,
    output::{print_bytes, talk},
    report::{Done, Failure, Refused},
    terminal::Terminal,
};
use crate::{
    artifacts::{self, Arrivals, ArtifactError, Part, There},
    events::Emitter,
    history::BuildRecord,
    model::{Activity, Artifact, BuildId, Hint, Unit},
    rpc::client::Remote,
    service::{BuildService as _, random},
    system::{files::FileError, stop::StopToken},
};

/// How many files arrive at once.
const AT_ONCE: usize = 4;

/// How often progress is told.
const PAUSE: Duration = Duration::from_millis(100);

/// What is wanted.
pub(super) struct Wanted<'a> {
    /// The daemon.
    pub remote: &'a Remote,
    /// Whose artifacts.
    pub build: &'a BuildRecord,
    /// Which of them; all without.
    pub patterns: &'a [String],
    /// Replace what is there already.
    pub force: bool,
    /// Whether to stop.
    pub stop: &'a StopToken,
}

/// Copies what a build left behind into a folder.
pub(super) fn download(wanted: &Wanted<'_>, dest: &Path) -> Done {
    let (build, stop) = (wanted.build, wanted.stop);
    let all = artifacts::select(left_behind(wanted)?, wanted.patterns)?;
    let arrivals = Arrivals::open(dest)?;
    let (outside, all): (Vec<_>, Vec<_>) = all.into_iter().partition(Artifact::leads_out);
    let (mut missing, mut others) = (Vec::new(), Vec::new());
    for artifact in &all {
        stop.check().map_err(ArtifactError::from)?;
        match arrivals.there(artifact, stop)? {
            There::TheSame => continue,
            There::Another => others.push(dest.join(&artifact.path)),
            There::Nothing => {}
        }
        missing.push(artifact);
    }
    if let (false, Some(first)) = (wanted.force, others.first()) {
        return Err(ArtifactError::Another { first: first.clone(), more: others.len() - 1 }.into());
    }
    let on = Emitter::new(BuildId::new("download", random())?, vec![Box::new(Terminal::new())]);
    let _second = context::exit_at_second(stop);
    let total = missing.iter().fold(0, |sum: u64, artifact| sum.saturating_add(artifact.size));
    let progress =
        Progress { on: &on, build: &build.id, total, done: AtomicU64::new(0), told: Mutex::new(Instant::now()) };
    progress.tell(0);
    files(wanted, &arrivals, &missing, &progress)?;
    progress.tell(total);
    drop(on);
    for artifact in &missing {
        if let Some(link) = &artifact.link {
            arrivals.link(&artifact.path, link)?;
        }
    }
    let (made, there) = (missing.len(), all.len() - missing.len());
    let there = if there > 0 { format!("; {there} were there already") } else { String::new() };
    talk(format!("{made} files of {} copied to {}{there}", build.id, dest.display()));
    if !outside.is_empty() {
        let outside = outside.len();
        talk(format!(
            "{outside} links were not made, since each leads out of the artifacts: see `smidr client artifacts`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn left_behind(wanted: &Wanted<'_>) -> Result<Vec<Artifact>, Failure> {
    let build = wanted.build;
    let all = wanted.remote.artifacts(&build.id)?;
    match all.is_empty() {
        true => Err(Refused::new(format!("{} ({}) left nothing behind", build.id, build.state), None).into()),
        false => Ok(all),
    }
}

/// How much has arrived.
struct Progress<'a> {
    on: &'a Emitter,
    build: &'a BuildId,
    total: u64,
    done: AtomicU64,
    told: Mutex<Instant>,
}

impl Progress<'_> {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= PAUSE {
            *told = Instant::now();
            self.tell(done);
        }
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn tell(&self, done: u64) {
        self.on.progress(Activity::Download, self.build.as_str(), done, Some(self.total), Unit::Bytes);
    }
}

/// Brings all files. The first error ends the others; their parts stay.
fn files(
    wanted: &Wanted<'_>,
    arrivals: &Arrivals,
    missing: &[&Artifact],
    progress: &Progress<'_>,
) -> Result<(), Failure> {
    let rest = Mutex::new(missing.iter().filter(|artifact| artifact.link.is_none()));
    let stop = wanted.stop.child();
    let bring = || {
        loop {
            let Some(artifact) = rest.lock().unwrap_or_else(PoisonError::into_inner).next() else { return Ok(()) };
            let done = one(wanted, &stop, arrivals, artifact, progress);
            if done.is_err() {
                // Asked for again, a stop would kill.
                if !stop.is_requested() {
                    stop.escalate();
                }
                return done;
            }
        }
    };
    let mut ended: Vec<Result<(), Failure>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(bring)).collect();
        // A panic has been told.
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // What was stopped by the error of another is not its reason.
    ended.sort_by_key(|done| done.as_ref().err().is_some_and(|error| error.kind() == crate::model::Kind::Cancelled));
    ended.into_iter().collect()
}

/// Brings one file. A beginning that was there already and does not fit is fetched anew, once.
fn one(
    wanted: &Wanted<'_>,
    stop: &StopToken,
    arrivals: &Arrivals,
    artifact: &Artifact,
    progress: &Progress<'_>,
) -> Result<(), Failure> {
    let mut part = arrivals.part(artifact)?;
    let begun = part.resume(artifact.size, stop)?;
    progress.add(begun);
    rest(wanted, stop, artifact, &mut part, progress)?;
    if begun > 0 && !part.is(artifact.sha256.as_ref()) {
        progress.take_back(part.length);
        part.clear()?;
        rest(wanted, stop, artifact, &mut part, progress)?;
    }
    if !part.is(artifact.sha256.as_ref()) {
        part.clear()?;
        let what = format!("{} arrived damaged: its digest is another one", artifact.path.display());
        return Err(Refused::new(what, [Hint::new("try again")]).into());
    }
    Ok(part.show()?)
}

/// Brings what a part lacks.
fn rest(
    wanted: &Wanted<'_>,
    stop: &StopToken,
    artifact: &Artifact,
    part: &mut Part,
    progress: &Progress<'_>,
) -> Result<(), Failure> {
    if part.length < artifact.size {
        let (offset, mut full) = (part.length, None);
        let done = wanted.remote.download(&wanted.build.id, artifact, offset, Some(stop), &mut |piece| {
            if part.length + piece.len() as u64 > artifact.size {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more arrived than the file has"));
            }
            progress.add(piece.len() as u64);
            part.write(piece).map_err(|error| {
                full = Some(error);
                io::ErrorKind::Other.into()
            })
        });
        // Where it stands here, and not on the daemon's machine.
        full.map_or(Ok(()), |error| Err(error.into())).and(done.map_err(Failure::from))?;
    }
    stop.check().map_err(ArtifactError::from)?;
    match part.length == artifact.size {
        true => Ok(()),
        false => Err(FileError::new("copy", &artifact.path)(io::ErrorKind::UnexpectedEof.into()).into()),
    }
}

/// Writes what a build left behind as one tar archive; `-` is standard output.
pub(super) fn archive(wanted: &Wanted<'_>, to: &Path) -> Done {
    let outside =
        artifacts::select(left_behind(wanted)?, wanted.patterns)?.iter().filter(|one| one.leads_out()).count();
    let id = &wanted.build.id;
    let is_whole = if to == Path::new("-") {
        wanted.remote.archive(id, wanted.patterns, wanted.stop, &mut |piece| {
            print_bytes(piece);
            Ok(())
        })?
    } else {
        let failed = || FileError::new("write", to);
        if to.exists() && !wanted.force {
            return Err(ArtifactError::Another { first: to.into(), more: 0 }.into());
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
        let is_whole = wanted
            .remote
            .archive(id, wanted.patterns, wanted.stop, &mut |piece| io::Write::write_all(&mut file, piece))?;
        if is_whole {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode).map_err(failed())?;
            file.persist(to).map_err(|error| failed()(error.error))?;
        }
        is_whole
    };
    if !is_whole {
        return Err(ArtifactError::Stopped(crate::system::stop::Stopped).into());
    }
    if outside > 0 {
        talk(format!(
            "{outside} links are not in it, since each leads out of the artifacts: see `smidr client artifacts`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
