//! Helpers for all tests: the program, a separate world for each test, the shared image, processes and deadlines.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes, even on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// The program under test.
pub(crate) fn smidr_bin() -> PathBuf {
    std::env::var_os("SMIDR_BIN").map_or_else(|| env!("CARGO_BIN_EXE_smidr").into(), PathBuf::from)
}

/// Reports that a test cannot run here, and lets `scripts/test` count it.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    // Directly to stderr: the test harness captures prints, and would hide the skip.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("SMIDR_TEST_SKIPS") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(file).expect("the file that counts skips");
        file.write_all(line.as_bytes()).expect("count the skip");
    }
}

/// Whether tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a program is in PATH, or where administrators have theirs.
pub(crate) fn has(program: &str) -> bool {
    tool(program).is_some()
}

/// Where a program is.
pub(crate) fn tool(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What of the caller's environment the program needs to reach a network.
fn passed_on() -> impl Iterator<Item = (String, String)> {
    const KNOWN: [&str; 10] = [
        "PATH",
        "TMPDIR",
        "SSL_CERT_FILE",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    std::env::vars().filter(|(name, _)| KNOWN.contains(&name.as_str()) || name.starts_with("PIP_"))
}

/// A home for programs that need none.
pub(crate) const NO_HOME: &str = "/nonexistent";

/// Any program but smidr. It finds no configuration, logins, sockets or runtime folders of this machine or of its user, so that
/// tests do not depend on what was used here before.
pub(crate) fn hermetic(program: impl AsRef<OsStr>, home: impl AsRef<Path>) -> Command {
    let home = home.as_ref();
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("LC_ALL", "C").stdin(Stdio::null());
    command.envs(passed_on().filter(|(name, _)| ["PATH", "TMPDIR"].contains(&name.as_str())));
    let folders = [
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_CACHE_HOME", ".cache"),
        // Without it skopeo reads /run/containers/UID.
        ("XDG_RUNTIME_DIR", ".run"),
        ("DOCKER_CONFIG", ".docker"),
        ("GNUPGHOME", ".gnupg"),
        ("REGISTRY_AUTH_FILE", "registry-auth.json"),
    ];
    command.envs(folders.map(|(name, file)| (name, home.join(file))));
    // skopeo wants the file to exist.
    if home.is_dir() {
        fs::write(home.join("registry-auth.json"), "{}").expect("write the file of logins");
    }
    let git = ["GIT_CONFIG_NOSYSTEM", "GIT_ATTR_NOSYSTEM"].map(|name| (name, "1"));
    command.envs(git).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    command
}

/// Folders that no other test uses: a home, a SMIDR_HOME, and a place for projects.
pub(crate) struct World {
    pub home: PathBuf,
    pub smidr: PathBuf,
    pub work: PathBuf,
    _folder: TempDir,
}

impl World {
    /// With a SMIDR_HOME that does not exist yet.
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir()).expect("a temporary folder")
    }

    /// As [`World::new`], in another place than usual.
    pub(crate) fn new_in(place: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("smidr-t-").tempdir_in(place)?;
        let at = |name: &str| folder.path().join(name);
        let (home, smidr, work) = (at("home"), at("smidr"), at("work"));
        fs::create_dir(&home).expect("a home");
        fs::create_dir(&work).expect("a place for projects");
        Ok(Self { home, smidr, work, _folder: folder })
    }

    /// With the image of `hello` in its store, or none where that cannot be made; the skip is then reported.
    pub(crate) fn with_image(test: &str) -> Option<Self> {
        let shared = shared_home(test)?;
        let world = Self::new();
        // Layers are read-only, and their locks belong to them; everything else is this world's own.
        fs::create_dir(&world.smidr).expect("a SMIDR_HOME");
        for name in ["images", "locks"] {
            std::os::unix::fs::symlink(shared.join(name), world.smidr.join(name)).expect("a link");
        }
        Some(world)
    }

    /// As [`World::with_image`], and with a project `p` from the template `hello`.
    pub(crate) fn with_project(test: &str) -> Option<Self> {
        let world = Self::with_image(test)?;
        world.init("p");
        Some(world)
    }

    /// Writes a project from the template `hello`.
    pub(crate) fn init(&self, name: &str) -> PathBuf {
        let done = self.smidr().args(["init", name, "--template", "hello"]).current_dir(&self.work).run();
        done.expect_code(0);
        self.work.join(name)
    }

    /// The folder of the project `p`.
    pub(crate) fn project(&self) -> PathBuf {
        self.work.join("p")
    }

    /// Changes a file of the project `p`; the old text must be there.
    pub(crate) fn edit(&self, file: &str, old: &str, new: &str) {
        let path = self.project().join(file);
        let text = fs::read_to_string(&path).expect("a file of the project");
        assert!(text.contains(old), "{file} has no `{old}`");
        fs::write(&path, text.replace(old, new)).expect("write the file");
    }

    /// Lets the project `p` run in an image of the store.
    pub(crate) fn edit_host(&self, image: &str) {
        let path = self.project().join("smidr.yaml");
        let text = fs::read_to_string(&path).expect("a config");
        let above = text.split("\nhost:").next().expect("what is above");
        fs::write(&path, format!("{above}\nhost:\n  image: {image}\n")).expect("write the config");
        // An image of the same name may be another one by now.
        let _ = fs::remove_file(self.project().join("smidr.lock"));
    }

    /// Writes a file of the project `p`, and its folders.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.project().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(&path, text).expect("write the file");
    }

    /// Appends to the config of the project `p`.
    pub(crate) fn append(&self, text: &str) {
        let path = self.project().join("smidr.yaml");
        let old = fs::read_to_string(&path).expect("a config");
        fs::write(&path, format!("{old}{text}")).expect("write the config");
    }

    /// smidr in this world, in the project `p` where there is one.
    pub(crate) fn smidr(&self) -> Smidr {
        let project = self.project();
        let mut command = Command::new(smidr_bin());
        self.surround(&mut command);
        command.current_dir(if project.is_dir() { &project } else { &self.work });
        Smidr(command)
    }

    /// Gives a command the environment of this world and nothing else.
    pub(crate) fn surround(&self, command: &mut Command) {
        command.env_clear().envs(passed_on()).env("TERM", "dumb");
        command.env("HOME", &self.home).env("SMIDR_HOME", &self.smidr).env("SMIDR_TRUST", "1").stdin(Stdio::null());
    }

    /// The names in a folder, sorted; none when it is not there.
    pub(crate) fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A command line of smidr.
pub(crate) struct Smidr(Command);

impl Smidr {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, path: &Path) -> Self {
        self.0.current_dir(path);
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Done {
        self.run_with("")
    }

    /// Runs it to its end, with this on standard input. Killed when it takes for ever.
    pub(crate) fn run_with(mut self, input: &str) -> Done {
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn().expect("smidr starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (ended, watch) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The program need not read it.
                let _ = stdin.write_all(input.as_bytes());
            });
            scope.spawn(move || {
                if watch.recv_timeout(2 * LONG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            });
            let output = child.wait_with_output().expect("smidr ends");
            drop(ended);
            Done::new(output)
        })
    }

    /// Runs it to its end, with standard output to a file.
    pub(crate) fn run_into(mut self, out: fs::File) -> Done {
        self.0.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        Done::new(self.0.output().expect("smidr runs"))
    }

    /// Starts it; standard output and standard error go to a file each.
    pub(crate) fn start(mut self) -> Running {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let make = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
        self.0.stdin(Stdio::null()).stdout(make("out")).stderr(make("err"));
        let child = self.0.spawn().expect("smidr starts");
        Running { child, folder }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub(crate) fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "--- out\n{}--- err\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn expect_err(&self, part: &str) -> &Self {
        assert!(self.err.contains(part), "no `{part}` in\n{}", self.err);
        self
    }

    #[track_caller]
    pub(crate) fn expect_out(&self, part: &str) -> &Self {
        assert!(self.out.contains(part), "no `{part}` in\n{}", self.out);
        self
    }

    /// One error, and not a second one: a user reads the first and types what the hint says.
    #[track_caller]
    pub(crate) fn expect_one_error(&self) -> &Self {
        assert_eq!(
            self.err.lines().filter(|line| line.starts_with("error:")).count(),
            1,
            "not one error in\n{}",
            self.err
        );
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }

    /// The id of the build that ended, as the last lines say it.
    #[track_caller]
    pub(crate) fn build_id(&self) -> String {
        let words = self.err.lines().rev().flat_map(str::split_whitespace);
        let is_id = |word: &&str| {
            word.rsplit_once('-')
                .is_some_and(|(_, hash)| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        words.into_iter().find(is_id).unwrap_or_else(|| panic!("no build id in\n{}", self.err)).to_owned()
    }
}

/// A smidr that runs. Killed when dropped.
pub(crate) struct Running {
    pub child: Child,
    folder: TempDir,
}

impl Running {
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    pub(crate) fn err(&self) -> String {
        fs::read_to_string(self.folder.path().join("err")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("send a signal");
    }

    /// Waits until standard output or standard error has this.
    #[track_caller]
    pub(crate) fn until_says(&mut self, part: &str) {
        let begun = Instant::now();
        loop {
            let (out, err) = (self.out(), self.err());
            if out.contains(part) || err.contains(part) {
                return;
            }
            let ended = self.child.try_wait().expect("look at smidr");
            assert!(ended.is_none(), "ended ({ended:?}) without `{part}`\n{out}\n{err}");
            assert!(begun.elapsed() < LONG, "no `{part}` in {LONG:?}\n{out}\n{err}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Done {
        let mut status = None;
        let child = &mut self.child;
        wait_for("smidr to end", LONG, || {
            status = child.try_wait().expect("look at smidr");
            status.is_some()
        });
        let status = status.expect("it ended");
        Done { code: status.code(), out: self.out(), err: self.err() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until something is true.
#[track_caller]
pub(crate) fn wait_for(what: &str, at_most: Duration, mut look: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < at_most, "waited {at_most:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Living processes of this machine whose command line or environment holds `marker`, as far as we may look.
pub(crate) fn processes_with(marker: &str) -> Vec<String> {
    let holds = |path: &Path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(marker.len()).any(|window| window == marker.as_bytes()))
    };
    let me = std::process::id().to_string();
    World::names(Path::new("/proc"))
        .into_iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != me)
        .filter(|pid| {
            let folder = Path::new("/proc").join(pid);
            holds(&folder.join("cmdline")) || holds(&folder.join("environ"))
        })
        .map(|pid| {
            let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
            format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

/// One home of smidr for the whole run, with the image of `hello` in its store; none where it cannot be made.
pub(crate) fn shared_home(test: &str) -> Option<&'static Path> {
    static HOME: OnceLock<Shared> = OnceLock::new();
    match HOME.get_or_init(make_shared_home) {
        Shared::At(path) => Some(path),
        Shared::Cannot(reason) => {
            skip(test, reason);
            None
        }
        Shared::Failed(why) => panic!("the image of `hello` cannot be made:\n{why}"),
    }
}

enum Shared {
    At(PathBuf),
    Cannot(String),
    Failed(String),
}

fn make_shared_home() -> Shared {
    for tool in ["apt-get", "dpkg-deb", "tar"] {
        if !has(tool) {
            return Shared::Cannot(format!("no {tool} here, so there can be no build host from packages"));
        }
    }
    if let Err(reason) = user_namespaces() {
        return Shared::Cannot(reason.into());
    }
    // Without the variable: a place that the next run uses again, so that runs do not fill the disk.
    let usual = || std::env::temp_dir().join(format!("smidr-tests-{}", nix::unistd::geteuid()));
    let place = std::env::var_os("SMIDR_TEST_HOME").map_or_else(usual, PathBuf::from);
    fs::create_dir_all(&place).expect("a shared folder");
    let mut world = World::new();
    world.smidr = place.join("smidr");
    let begun = Instant::now();
    // scripts/test gives the second user what the first has made a moment ago.
    if std::env::var_os("SMIDR_TEST_IMAGES").is_some()
        && world.smidr().args(["image", "ls"]).run().out.contains("hello")
    {
        return Shared::At(world.smidr);
    }
    let done = world.smidr().args(["image", "build", "hello"]).run();
    if done.code != Some(0) {
        return Shared::Failed(done.err);
    }
    let _ = writeln!(io::stderr(), "the image of `hello` took {:.1} s", begun.elapsed().as_secs_f64());
    Shared::At(world.smidr)
}

/// Whether this host lets this user make namespaces at all, found out without smidr.
pub(crate) fn user_namespaces() -> Result<(), &'static str> {
    let Some(unshare) = tool("unshare") else { return Ok(()) };
    let tried = Command::new(unshare).args(["-Ur", "true"]).stderr(Stdio::null()).status();
    if tried.is_ok_and(|status| status.success()) { Ok(()) } else { Err("no user namespaces here") }
}

/// The hints of an error as text.
pub(crate) trait HintText {
    fn hint(&self) -> Option<String>;
}

impl<E: smidr::model::UserError> HintText for E {
    fn hint(&self) -> Option<String> {
        let lines: Vec<String> = self.hints().iter().map(ToString::to_string).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}
