//! The host's apt, as a resolver and verifier of packages: without root, and without changing the host.
//!
//! apt runs with folders and a configuration of its own, so that no hook and no preference of the host takes part. Only the host's
//! mirror, keyrings and proxies are used. apt checks signatures and hashes itself (apt-secure(8)).

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::recipe::Suite;
use crate::{
    events::Emitter,
    lock::PackagePin,
    model::{Activity, Hint, Kind, Unit, UserError},
    system::{
        files::{FileError, make_private_dir, sha256_of, write_atomically},
        process::Spawner,
        stop::StopToken,
    },
};

/// Packages that apt resolved, verified and downloaded.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The files of all packages, in apt's own order.
    pub all: Vec<PathBuf>,
    /// The essential ones, which are needed to configure any other.
    pub essential: Vec<PathBuf>,
    /// Their versions and digests.
    pub lock: BTreeMap<String, PackagePin>,
    /// In dpkg's words: `amd64`.
    pub architecture: String,
}

/// Why packages cannot be downloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AptError {
    /// The host has no apt.
    #[error("this host has no {0}, which resolves and verifies packages")]
    Missing(&'static str),
    /// The host knows no mirror of that distribution.
    #[error("this host's apt knows no mirror of {distribution}, and the recipe names none")]
    NoMirror {
        /// The distribution.
        distribution: String,
    },
    /// The keyring is not there.
    #[error("the keyring {0} that signs the suite is not on this host")]
    NoKeyring(PathBuf),
    /// apt failed.
    #[error("{step} failed: {said}")]
    Failed {
        /// The step.
        step: String,
        /// apt's own words.
        said: String,
    },
    /// apt could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Which program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
}

impl UserError for AptError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing(_) | Self::NoKeyring(_) | Self::Run { .. } => Kind::Host,
            Self::NoMirror { .. } => Kind::Request,
            Self::Failed { .. } => Kind::Outside,
            Self::File(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Missing(_) => {
                vec![Hint::config("begin the rootfs recipe with an image instead", "base: {image: NAME}")]
            }
            Self::NoMirror { distribution } => vec![Hint::config(
                "add to the base of a rootfs recipe of your own",
                format!("mirror: URL\nsigned_by: /usr/share/keyrings/{distribution}-archive-keyring.gpg"),
            )],
            Self::NoKeyring(path) if path.to_string_lossy().contains("ubuntu") => {
                vec![Hint::command(
                    "as administrator (on Debian 12 it is in bookworm-backports)",
                    "apt-get install ubuntu-keyring",
                )]
            }
            Self::NoKeyring(_) => vec![Hint::command("as administrator", "apt-get install debian-archive-keyring")],
            Self::Failed { said, .. } if said.contains("Unable to locate package") => {
                vec![Hint::new("is it the name of a package in that suite?")]
            }
            Self::Failed { said, .. } if said.contains("was not found") && said.contains("Version") => {
                vec![Hint::command(
                    "the mirror has moved on since smidr.lock was written; to take what it has now",
                    "smidr lock --update host",
                )]
            }
            Self::File(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// apt with folders of its own.
pub(super) struct Apt<'a> {
    folder: PathBuf,
    architecture: String,
    spawner: &'a Spawner,
    stop: &'a StopToken,
    on: &'a Emitter,
}

impl<'a> Apt<'a> {
    /// Sets apt up for a suite, in a folder that is kept, so that downloads are not repeated.
    ///
    /// # Errors
    ///
    /// When the host has no apt, or no mirror or keyring for the suite.
    pub(super) fn new(
        folder: &Path,
        suite: &Suite,
        spawner: &'a Spawner,
        stop: &'a StopToken,
        on: &'a Emitter,
    ) -> Result<Self, AptError> {
        let mut apt = Self { folder: folder.into(), architecture: String::new(), spawner, stop, on };
        for tool in ["apt-get", "apt-config", "dpkg", "dpkg-deb"] {
            apt.ask(tool, &["--version"]).map_err(|_| AptError::Missing(tool))?;
        }
        apt.architecture = apt.ask("dpkg", &["--print-architecture"])?.trim().into();
        for name in ["state/lists/partial", "archives/partial", "etc", "log"] {
            make_private_dir(&folder.join(name))?;
        }
        let sources = apt.sources(suite)?;
        write_atomically(&folder.join("etc/sources.list"), sources.as_bytes(), 0o600)?;
        write_atomically(&folder.join("etc/status"), b"", 0o600)?;
        write_atomically(&folder.join("etc/apt.conf"), apt.configuration()?.as_bytes(), 0o600)?;
        Ok(apt)
    }

    /// Resolves, verifies and downloads packages. With `pinned`, exactly those versions.
    ///
    /// # Errors
    ///
    /// When the mirror cannot be reached, a signature is wrong, or a package or version does not exist there.
    pub(super) fn resolve(
        &self,
        packages: &[String],
        pinned: &BTreeMap<String, PackagePin>,
    ) -> Result<Resolved, AptError> {
        self.get("reading the package lists", &["update"])?;
        // By name: otherwise a package that provides the same could replace an essential one, as gawk does mawk.
        let essential = self.simulate(&["?essential".into()])?;
        let mut wanted: Vec<String> = essential.iter().map(|package| package.name.clone()).collect();
        if pinned.is_empty() {
            wanted.extend(packages.iter().cloned());
        } else {
            wanted = pinned.iter().map(|(name, lock)| format!("{name}={}", lock.version)).collect();
        }
        let mut install = vec!["install", "--download-only", "--"];
        install.extend(wanted.iter().map(String::as_str));
        self.get("downloading packages", &install)?;
        let all = self.simulate(&wanted)?;
        let lock = self.lock(&all)?;
        for (name, expected) in pinned {
            if lock.get(name).is_none_or(|found| found.sha256 != expected.sha256) {
                let step = format!("checking {name} {}", expected.version);
                return Err(AptError::Failed { step, said: "the mirror's file is not the one in smidr.lock".into() });
            }
        }
        let is_essential = |package: &&Package| essential.iter().any(|known| known.name == package.name);
        Ok(Resolved {
            essential: all.iter().filter(is_essential).map(|package| self.archive(package)).collect(),
            all: all.iter().map(|package| self.archive(package)).collect(),
            lock,
            architecture: self.architecture.clone(),
        })
    }

    fn lock(&self, packages: &[Package]) -> Result<BTreeMap<String, PackagePin>, AptError> {
        let mut lock = BTreeMap::new();
        for package in packages {
            let path = self.archive(package);
            let (sha256, _) = sha256_of(&path)?;
            lock.insert(package.name.clone(), PackagePin { version: package.version.clone(), sha256 });
        }
        Ok(lock)
    }

    fn archive(&self, package: &Package) -> PathBuf {
        let version = package.version.replace(':', "%3a");
        self.folder.join("archives").join(format!("{}_{version}_{}.deb", package.name, package.architecture))
    }

    /// The packages that an installation would install, in its order.
    fn simulate(&self, wanted: &[String]) -> Result<Vec<Package>, AptError> {
        let mut args = vec!["install", "--simulate", "-qq", "--"];
        args.extend(wanted.iter().map(String::as_str));
        let said = self.ask_own("resolving packages", &args)?;
        Ok(said.lines().filter_map(|line| Package::parse(line, &self.architecture)).collect())
    }

    /// The sources for the suite and its updates, from the host's own mirror.
    fn sources(&self, suite: &Suite) -> Result<String, AptError> {
        let components = suite.components.join(" ");
        let line = |uri: &str, suite: &str, keyring: Option<&str>| {
            let option = keyring.map(|path| format!(" [signed-by={path}]")).unwrap_or_default();
            format!("deb{option} {uri} {suite} {components}\n")
        };
        // The distribution's own keyring at its usual path; otherwise the keys that apt trusts by default.
        let usual = PathBuf::from(format!("/usr/share/keyrings/{}-archive-keyring.gpg", suite.distribution));
        let keyring = match &suite.signed_by {
            Some(path) if !Path::new(&path.text).exists() => return Err(AptError::NoKeyring(path.text.clone().into())),
            Some(path) => Some(path.text.clone()),
            None => usual.exists().then(|| usual.display().to_string()),
        };
        let keyring = keyring.as_deref();
        let known = self.host_targets()?;
        let own = known
            .iter()
            .find(|target| target.suite == *suite.suite && target.is_of(&suite.distribution))
            .or_else(|| known.iter().find(|target| target.is_of(&suite.distribution) && !target.suite.contains('-')));
        // The host's own mirror comes first: it is near, and may be the only one that is reachable.
        let mirror = match (own, &suite.mirror) {
            (Some(own), _) => own,
            (None, Some(mirror)) => {
                let pockets: &[&str] =
                    if *suite.distribution == *"ubuntu" { &["", "-updates", "-security"] } else { &[""] };
                let lines = pockets.iter().map(|pocket| line(mirror, &format!("{}{pocket}", suite.suite), keyring));
                return Ok(lines.collect());
            }
            (None, None) => return Err(AptError::NoMirror { distribution: suite.distribution.text.clone() }),
        };
        let mut text = line(&mirror.uri, &suite.suite, keyring);
        for pocket in ["-updates", "-security"] {
            let name = format!("{}{pocket}", suite.suite);
            if let Some(target) = known.iter().find(|target| target.suite == name) {
                text.push_str(&line(&target.uri, &name, keyring));
            }
        }
        Ok(text)
    }

    /// The host's own sources, as apt reads them.
    fn host_targets(&self) -> Result<Vec<Target>, AptError> {
        let format = "$(REPO_URI)|$(RELEASE)";
        let said = self.ask("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
        let target = |(uri, suite): (&str, &str)| Target { uri: uri.into(), suite: suite.into() };
        Ok(said.lines().filter_map(|line| line.split_once('|').map(target)).collect())
    }

    fn configuration(&self) -> Result<String, AptError> {
        let folder = self.folder.display();
        let mut text = format!(
            "Dir::State \"{folder}/state\";\nDir::State::lists \"{folder}/state/lists\";\nDir::State::status \"{folder}/etc/status\";\n\
             Dir::Cache \"{folder}\";\nDir::Cache::archives \"{folder}/archives\";\nDir::Log \"{folder}/log\";\n\
             Dir::Etc::sourcelist \"{folder}/etc/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
             APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\nAPT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Keep-Downloaded-Packages \"true\";\n\
             pkgCacheGen::ForceEssential \",\";\n",
            arch = self.architecture,
        );
        // Only the host's settings for the network are used; its hooks would act on the host.
        for line in self.ask("apt-config", &["dump"])?.lines() {
            let name = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
            let network = name.starts_with("acquire::http") || name.starts_with("acquire::ftp");
            if network && (name.contains("proxy") || name.contains("::ca") || name.contains("verify")) {
                text.push_str(line);
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// Runs apt-get and reports its progress.
    fn get(&self, step: &str, args: &[&str]) -> Result<(), AptError> {
        let mut command = self.spawner.command("apt-get");
        command.args(["-q", "-o", "APT::Status-Fd=1"]).args(args);
        command.env("APT_CONFIG", self.folder.join("etc/apt.conf")).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = |source| AptError::Run { program: "apt-get".into(), source };
        let mut child = self.spawner.spawn(command, Vec::new()).map_err(run)?;
        let process = Pid::from_raw(child.id().cast_signed()).ok_or(Errno::SRCH);
        let process =
            process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())).map_err(|errno| run(errno.into()))?;
        let _listening = self.stop.listen(move |_| {
            let _ = pidfd_send_signal(&process, Signal::TERM);
        });
        let stderr = child.stderr.take();
        // Both pipes are read at once: a full one would block apt.
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut pipe) = stderr {
                let _ = pipe.read_to_string(&mut text);
            }
            text
        });
        for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok)
        {
            // dlstatus:<item>:<percent>:<text>, apt's README.progress-reporting
            let percent = line.strip_prefix("dlstatus:").and_then(|rest| rest.split(':').nth(1));
            if let Some(percent) = percent.and_then(|percent| percent.parse::<f64>().ok()) {
                self.on.progress(Activity::Download, step, percent as u64, Some(100), Unit::Percent);
            }
        }
        let status = child.wait().map_err(run)?;
        let said = errors.join().unwrap_or_default();
        // An update that could not reach the mirror exits with 0 and a warning, and leaves old lists.
        let failed = !status.success() || args.contains(&"update") && said.contains("Failed to fetch");
        if failed { Err(AptError::Failed { step: step.into(), said: words(&said) }) } else { Ok(()) }
    }

    fn ask_own(&self, step: &str, args: &[&str]) -> Result<String, AptError> {
        let config = self.folder.join("etc/apt.conf");
        self.output(step, "apt-get", args, &[("APT_CONFIG", &config)])
    }

    fn ask(&self, program: &str, args: &[&str]) -> Result<String, AptError> {
        self.output(&format!("{program} {}", args.join(" ")), program, args, &[])
    }

    fn output(&self, step: &str, program: &str, args: &[&str], env: &[(&str, &Path)]) -> Result<String, AptError> {
        let mut command = self.spawner.command(program);
        command.args(args).envs(env.iter().copied()).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = |source| AptError::Run { program: program.into(), source };
        let output =
            self.spawner.spawn(command, Vec::new()).and_then(std::process::Child::wait_with_output).map_err(run)?;
        if !output.status.success() {
            let said = words(&String::from_utf8_lossy(&output.stderr));
            return Err(AptError::Failed { step: step.into(), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// apt's warnings and errors, without their prefixes.
fn words(stderr: &str) -> String {
    let errors: Vec<&str> =
        stderr.lines().filter_map(|line| line.strip_prefix("E: ").or(line.strip_prefix("W: "))).collect();
    if errors.is_empty() { stderr.trim().to_owned() } else { errors.join("; ") }
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    uri: String,
    suite: String,
}

impl Target {
    fn is_of(&self, distribution: &str) -> bool {
        self.uri.trim_end_matches('/').ends_with(&format!("/{distribution}"))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    architecture: String,
}

impl Package {
    /// Reads a line of a simulation: `Inst libc6 (2.36-9 Debian:12.1/stable [amd64])`.
    fn parse(line: &str, native: &str) -> Option<Self> {
        let rest = line.strip_prefix("Inst ")?;
        let (name, rest) = rest.split_once(' ')?;
        // Text after the closing parenthesis, such as `[]`, is apt's own bookkeeping.
        let inside = rest.split_once('(')?.1.split(')').next()?;
        let version = inside.split_whitespace().next()?;
        let architecture = inside.rsplit_once('[').and_then(|(_, end)| end.split(']').next()).unwrap_or(native);
        let name = name.split(':').next()?;
        Some(Self { name: name.into(), version: version.into(), architecture: architecture.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_says() {
        let parse = |line| Package::parse(line, "amd64");
        let libc = parse(
            "Inst libc6 (2.36-9+deb12u10 Debian:12.11/oldstable, Debian-Security:12/oldstable-security [amd64]) []",
        );
        let libc = libc.expect("a package");
        assert_eq!(
            (libc.name.as_str(), libc.version.as_str(), libc.architecture.as_str()),
            ("libc6", "2.36-9+deb12u10", "amd64")
        );
        assert_eq!(parse("Inst tzdata (2025b-0 Debian:12/stable [all])").map(|p| p.architecture), Some("all".into()));
        assert_eq!(parse("Conf libc6 (2.36-9 Debian:12 [amd64])"), None);
        assert_eq!(words("W: careful\nE: no\n"), "careful; no");
        let debian = Target { uri: "http://mirror.example.org/debian/".into(), suite: "bookworm".into() };
        assert!(debian.is_of("debian") && !debian.is_of("ubuntu"));
    }
}
