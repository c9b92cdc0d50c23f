//! Reports of builds for CI systems: JUnit XML, annotations, code quality, a summary in Markdown. What a build has done and why it failed is
//! gathered here, once it is over; each form is a pure function of that.

mod annotations;
mod junit;
mod quality;
mod summary;
mod told;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use told::{Failed, Gathering, Repository, Told, plain};

use super::{
    output::annotate,
    report::{Done, Failure, Refused, redacted, report},
};
use crate::{
    history::{BuildRecord, journal::Entry},
    model::{Diagnosis, Hint, SystemFacts},
    service::BuildService,
    system::files::{FileError, write_atomically},
};

/// Where GitLab's own jobs write their report.
const QUALITY: &str = "gl-code-quality-report.json";

/// What is written of builds, for CI.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Reports")]
pub(super) struct Reports {
    /// Write the results as JUnit XML: a test for each recipe, a suite for each build
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write what failed as a Code Quality report of GitLab
    #[arg(long, value_name = "FILE")]
    pub code_quality: Option<PathBuf>,
    /// Append a summary in Markdown; `build` does so for GITHUB_STEP_SUMMARY by itself
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Annotate what failed: github (by itself where GITHUB_ACTIONS is true), gitlab (writes gl-code-quality-report.json), none
    #[arg(long, value_name = "CI", hide_possible_values = true)]
    pub annotations: Option<Annotations>,
}

/// Whose annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Annotations {
    /// Lines that the runners of GitHub, Forgejo and Gitea obey
    Github,
    /// A Code Quality report
    Gitlab,
    /// None, whatever CI this is; no summary either, unless a file is named
    None,
}

/// Which reports are written, and where.
#[derive(Default)]
pub(super) struct Wanted {
    junit: Option<PathBuf>,
    quality: Option<PathBuf>,
    summary: Option<PathBuf>,
    annotate: bool,
    // Where a CI has checked the repository out.
    checkout: Option<PathBuf>,
    // The builds so far.
    told: Vec<Told>,
}

impl Reports {
    /// What is wanted; with `detect` also what the CI around this process reads. Folders are made now: nothing is built for hours to find then
    /// that its report cannot be written.
    pub(super) fn settle(&self, facts: &SystemFacts, detect: bool) -> Result<Wanted, Failure> {
        let detect = detect && self.annotations != Some(Annotations::None);
        let variable = |name: &str| facts.variable(name).filter(|value| !value.is_empty());
        let is_github = variable("GITHUB_ACTIONS").is_some_and(|value| value == "true");
        let quality = (self.annotations == Some(Annotations::Gitlab)).then(|| QUALITY.into());
        let step = variable("GITHUB_STEP_SUMMARY").filter(|_| detect).map(PathBuf::from);
        let wanted = Wanted {
            junit: self.junit.clone(),
            quality: self.code_quality.clone().or(quality),
            summary: self.summary.clone().or(step),
            annotate: self.annotations == Some(Annotations::Github)
                || self.annotations.is_none() && detect && is_github,
            checkout: variable("GITHUB_WORKSPACE").or_else(|| variable("CI_PROJECT_DIR")).map(PathBuf::from),
            told: Vec::new(),
        };
        for file in [&wanted.junit, &wanted.quality, &wanted.summary].into_iter().flatten() {
            if file.is_dir() {
                let hint = Hint::new("name a file in it");
                return Err(Refused::new(format!("{} is a folder, and no report", file.display()), [hint]).into());
            }
            if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::create_dir_all(folder).map_err(FileError::new("make the folder", folder))?;
            }
        }
        Ok(wanted)
    }
}

impl Wanted {
    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.junit.is_some() || self.quality.is_some() || self.summary.is_some() || self.annotate
    }

    /// Takes a build; why it failed stands at its end, unless it is known better.
    ///
    /// # Errors
    ///
    /// When its journal cannot be read.
    pub(super) fn take(
        &mut self,
        service: &dyn BuildService,
        build: &BuildRecord,
        diagnoses: Option<Vec<Diagnosis>>,
    ) -> Result<(), Failure> {
        let mut gathering = Gathering::default();
        service.watch(&build.id, 0, None, &mut |entry| {
            if let Entry::Record(record) = entry {
                gathering.take(&record);
            }
            true
        })?;
        self.told.push(gathering.told(build, diagnoses, &self.repository(build.config.as_deref())));
        Ok(())
    }

    /// Takes a build that was refused before anything ran, and has no record.
    pub(super) fn take_unrecorded(&mut self, build: &BuildRecord) {
        self.told.push(Gathering::default().told(build, None, &self.repository(build.config.as_deref())));
    }

    /// Takes what logs tell.
    pub(super) fn take_logs(&mut self, name: &Path, diagnoses: Vec<Diagnosis>) {
        let name = name.file_name().unwrap_or(name.as_os_str()).to_string_lossy().into_owned();
        let failures = diagnoses.into_iter().map(|why| Failed { why, place: None }).collect();
        self.told.push(Told { class: name.clone(), name, failures, ..Told::default() });
    }

    /// Takes a build that did not begin.
    pub(super) fn take_refused(&mut self, config: &Path, error: &Failure) {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        let causes: Vec<String> = causes.map(|cause| redacted(&cause.to_string())).collect();
        let drawn = error.drawn(false).map(|drawn| redacted(&drawn)).unwrap_or_default();
        let cause = [vec![redacted(&error.to_string())], causes].concat().join(": ");
        let kind = serde_json::to_value(error.kind()).ok().and_then(|kind| Some(kind.as_str()?.to_owned()));
        let evidence = drawn.lines().map(str::to_owned).collect();
        let why = plain(kind.unwrap_or_default(), cause, evidence, error.hints());
        let config = std::path::absolute(config).unwrap_or_else(|_| config.into());
        let inside = self.repository(Some(&config)).inside(&config);
        let name = inside.clone().unwrap_or_else(|| "smidr.yaml".into());
        let failures = vec![Failed { why, place: inside.clone().map(|config| (config, 1)) }];
        self.told.push(Told { class: name.clone(), name, config: inside, failures, ..Told::default() });
    }

    /// The repository that a config is in: what the CI has checked out, or what git would say.
    fn repository(&self, config: Option<&Path>) -> Repository {
        let canonical = |path: &PathBuf| fs::canonicalize(path).ok();
        let config = config.and_then(|config| std::path::absolute(config).ok());
        let above = || {
            let folder = config.as_deref()?.parent()?;
            let root = folder.ancestors().find(|folder| folder.join(".git").exists());
            Some(root.unwrap_or(folder).to_path_buf())
        };
        let of_ci = self.checkout.clone().filter(|root| {
            let is_in = |config: &PathBuf| {
                config.starts_with(root) || canonical(root).is_some_and(|root| config.starts_with(root))
            };
            config.as_ref().is_none_or(is_in)
        });
        let root = of_ci.or_else(above);
        Repository { roots: root.iter().cloned().chain(root.as_ref().and_then(canonical)).collect() }
    }

    /// Ends a command: writes the reports. A report that cannot be written fails what has succeeded otherwise.
    pub(super) fn end(mut self, done: Done, config: &Path) -> Done {
        if !self.any() {
            return done;
        }
        if let (true, Err(error)) = (self.told.is_empty(), &done) {
            self.take_refused(config, error);
        }
        match self.write() {
            Ok(()) => done,
            Err(error) if done.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) => Err(error),
            Err(error) => {
                report(&error);
                done
            }
        }
    }

    /// All of them, also where one cannot be written. Gives the first error.
    fn write(&self) -> Result<(), Failure> {
        let told = &self.told;
        let whole = |file: &PathBuf, text: String| write_atomically(file, text.as_bytes(), 0o644);
        let append = |file: &PathBuf| {
            let opened = fs::OpenOptions::new().append(true).create(true).open(file);
            let written = opened.and_then(|mut opened| opened.write_all(summary::of(told).as_bytes()));
            written.map_err(FileError::new("write", file))
        };
        let written = [
            self.junit.as_ref().map(|file| whole(file, junit::of(told))),
            self.quality.as_ref().map(|file| whole(file, quality::of(told))),
            self.summary.as_ref().map(append),
        ];
        if self.annotate {
            annotations::of(told).iter().for_each(annotate);
        }
        Ok(written.into_iter().flatten().collect::<Result<(), FileError>>()?)
    }
}

#[cfg(test)]
mod tests;
