//! What a build gets of its caller and of this machine: agents, credentials, binds, devices; and that no secret is kept.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::support::{Done, LONG, NO_HOME, World, hermetic, skip, tool, wait_for};

/// Replaces the section `host` of the project's config.
fn host(world: &World, keys: &str) {
    let path = world.project().join("smidr.yaml");
    let text = fs::read_to_string(&path).expect("a config");
    let above = text.split("\nhost:").next().expect("what is above");
    fs::write(&path, format!("{above}\nhost:\n  recipe: hello\n{keys}")).expect("write the config");
}

fn inside(world: &World, script: &str) -> Done {
    world.smidr().args(["run", "--", "sh", "-c", script]).run()
}

#[track_caller]
fn says(world: &World, script: &str) -> String {
    inside(world, script).expect_code(0).out.trim().to_owned()
}

/// Writes a file with permissions, and its folders.
fn file(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// Files below a folder, or that file, that hold a text.
fn holding(place: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let files = walkdir::WalkDir::new(place).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).filter(|path| holds(path)).collect()
}

/// The HOME that the project's builds have.
fn inner_home(world: &World) -> PathBuf {
    let workspaces = world.smidr.join("workspaces");
    workspaces.join(&World::names(&workspaces)[0]).join("home")
}

/// A caller with all kinds of credentials.
fn furnish(world: &World) {
    file(&world.home.join(".netrc"), "machine example.org login me password pw-of-netrc\n", 0o600);
    file(&world.home.join(".git-credentials"), "https://me:pw-of-git@example.org\n", 0o600);
    file(&world.home.join(".ssh/known_hosts"), "example.org ssh-ed25519 AAAA\n", 0o644);
    file(&world.home.join(".ssh/id_ed25519"), "pw-of-key\n", 0o600);
    file(
        &world.home.join(".gitconfig"),
        "[user]\n\tname = A Person\n[credential]\n\thelper = pw-of-gitconfig\n",
        0o644,
    );
    file(&world.home.join("mine"), "pw-of-mine\n", 0o644);
}

#[test]
fn a_build_gets_only_the_inputs_of_its_config() {
    let Some(world) = World::with_project("inputs::a_build_gets_only_the_inputs_of_its_config") else { return };
    furnish(&world);
    let look = "env; set; ls -la $HOME; find / -xdev -name '.netrc' -o -xdev -name '.git-credentials' -o -xdev -name known_hosts; \
                cat /proc/*/environ; find $HOME /root /home /run -type f -exec cat {} +; true";
    let ask = || {
        let smidr = world
            .smidr()
            .env("MARKER", "pw-of-env")
            .env("SSH_AUTH_SOCK", "/tmp/pw-of-agent")
            .env("AWS_SECRET_ACCESS_KEY", "pw-of-aws");
        smidr.args(["run", "--", "sh", "-c", look]).run()
    };
    let done = ask();
    done.expect_code(0).expect_out("HOME=");
    assert!(!done.out.contains("pw-of-"), "{}", done.out);
    assert!(!done.out.contains("netrc") && !done.out.contains("git-credentials"), "{}", done.out);
    // Commits in there have the caller's name.
    done.expect_out("name = A Person");
    // The same commands find what the config names, so they would find the rest.
    host(&world, "  env: [MARKER]\n  netrc: true\n");
    ask().expect_code(0).expect_out("MARKER=pw-of-env").expect_out("password pw-of-netrc");
}

#[test]
fn credential_files_are_bound_and_never_copied() {
    let Some(world) = World::with_project("inputs::credential_files_are_bound_and_never_copied") else { return };
    furnish(&world);
    host(&world, "  netrc: true\n  git_credentials: true\n");
    assert_eq!(says(&world, "cat $HOME/.netrc"), "machine example.org login me password pw-of-netrc");
    assert_eq!(says(&world, "cat /run/smidr/git-credentials"), "https://me:pw-of-git@example.org");
    let config = says(&world, "echo $GIT_CONFIG_GLOBAL; cat $GIT_CONFIG_GLOBAL");
    assert!(config.starts_with("/.smidr/gitconfig\n"), "{config}");
    assert!(config.contains("git credential-store --file=/run/smidr/git-credentials get"), "{config}");
    // Python refuses a file that is not its caller's own.
    let login = "import netrc; print(netrc.netrc().authenticators('example.org'))";
    let done = world.smidr().args(["run", "--", "python3", "-c", login]).run();
    assert_eq!(done.expect_code(0).out, "('me', '', 'pw-of-netrc')\n");
    for write in
        ["echo x > $HOME/.netrc", "echo x > /run/smidr/git-credentials", "rm $HOME/.netrc", "mv $HOME/.netrc $HOME/n"]
    {
        assert!(!matches!(inside(&world, write).code, Some(0 | 125)), "{write}");
    }
    let home = inner_home(&world);
    assert!(!home.join(".netrc").exists(), "a shell has a HOME of its own");
    assert_eq!(holding(&world.smidr, "pw-of-"), [""; 0].map(PathBuf::from), "a copy of a credential is a leak");
    assert_eq!(holding(&world.home, "pw-of-netrc"), [world.home.join(".netrc")]);

    // A file in another place, changed meanwhile, and readable by others, which is a warning.
    file(&world.work.join("own/netrc"), "machine a login b password pw-of-b\n", 0o644);
    host(&world, "  netrc: ../own/netrc\n");
    let done = inside(&world, "cat $HOME/.netrc; echo [$GIT_CONFIG_GLOBAL]");
    assert_eq!(done.expect_code(0).out, "machine a login b password pw-of-b\n[]\n");
    done.expect_err("can be read by others").expect_err("chmod 600 ");

    // An earlier build could have put something else in the place of HOME.
    fs::remove_dir(&home).expect("remove the mount point");
    symlink("/etc", &home).expect("a link");
    assert_eq!(says(&world, "cat $HOME/.netrc; grep -c builder /etc/passwd"), "machine a login b password pw-of-b\n1");
    fs::remove_dir(&home).expect("remove the mount point");
    file(&home, "x", 0o644);
    assert_eq!(says(&world, "cat $HOME/.netrc"), "machine a login b password pw-of-b");

    for (keys, code, expected) in [
        ("  netrc: ./nowhere\n", 125, "cannot read the netrc "),
        ("  git_credentials: /etc\n", 125, "is not a regular file"),
        ("  netrc: ~/.smidr-none/../../smidr/version\n", 125, "SMIDR_HOME"),
    ] {
        host(&world, keys);
        inside(&world, "true").expect_code(code).expect_one_error().expect_err(expected);
    }
}

#[test]
fn git_reads_the_callers_credentials() {
    let name = "inputs::git_reads_the_callers_credentials";
    let Some(world) = World::with_project(name) else { return };
    let Some(git) = tool("git") else { return skip(name, "there is no git here") };
    furnish(&world);
    host(&world, "  git_credentials: true\n");
    // The build host of `hello` has no git, so this machine's reads the config that the sandbox would give it.
    let config = says(&world, "cat $GIT_CONFIG_GLOBAL");
    let own = world.home.join(".git-credentials").display().to_string();
    let path = world.work.join("gitconfig");
    fs::write(&path, config.replace("/run/smidr/git-credentials", &own)).expect("a config");
    let ask = |action: &str, input: &str| {
        let mut command = hermetic(&git, NO_HOME);
        command.args(["credential", action]).env("GIT_CONFIG_GLOBAL", &path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("git starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("asked");
        Done::new(child.wait_with_output().expect("git ends"))
    };
    let done = ask("fill", "protocol=https\nhost=example.org\n\n");
    done.expect_code(0).expect_out("username=me").expect_out("password=pw-of-git");
    // It only reads: new credentials are not stored in the caller's file, without an error.
    let done = ask("approve", "protocol=https\nhost=other.example\nusername=a\npassword=b\n\n");
    assert_eq!(done.expect_code(0).err, "");
    assert_eq!(fs::read_to_string(own).expect("the file"), "https://me:pw-of-git@example.org\n");
}

/// A process that ends with the test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks an agent for its keys (RFC draft-miller-ssh-agent, SSH_AGENTC_REQUEST_IDENTITIES), and prints their comments.
const ASK_AGENT: &str = r#"
import os, socket, struct
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["SSH_AUTH_SOCK"])
agent.sendall(struct.pack(">IB", 1, 11))
def read(count):
    data = b""
    while len(data) < count:
        data += agent.recv(count - len(data)) or exit("the agent hung up")
    return data
answer = read(struct.unpack(">I", read(4))[0])
assert answer[0] == 12
count, rest = struct.unpack(">I", answer[1:5])[0], answer[5:]
print(count, "keys")
for _ in range(2 * count):
    length = struct.unpack(">I", rest[:4])[0]
    text, rest = rest[4:4 + length], rest[4 + length:]
    if b"ssh-" not in text[:12]: print(text.decode())
"#;

#[test]
fn an_ssh_agent_is_shown_without_key_files() {
    let name = "inputs::an_ssh_agent_is_shown_without_key_files";
    let Some(world) = World::with_project(name) else { return };
    furnish(&world);
    host(&world, "  ssh_agent: true\n");
    let ask = |socket: &str| {
        let smidr = world.smidr().env("SSH_AUTH_SOCK", socket);
        smidr.args(["run", "--", "python3", "-c", ASK_AGENT]).run()
    };
    ask("").expect_code(125).expect_one_error().expect_err("SSH_AUTH_SOCK is not set").expect_err("ssh-add");
    ask("/nowhere").expect_code(125).expect_one_error().expect_err("cannot read the ssh-agent /nowhere");
    ask("/etc/passwd").expect_code(125).expect_one_error().expect_err("is not a socket");
    // A socket without a listener.
    let dead = world.work.join("dead");
    drop(UnixListener::bind(&dead).expect("a socket"));
    ask(&dead.display().to_string()).expect_code(125).expect_one_error().expect_err("no ssh-agent answers at");
    world
        .smidr()
        .arg("plan")
        .env("SSH_AUTH_SOCK", "")
        .run()
        .expect_code(0)
        .expect_out("none, SSH_AUTH_SOCK is not set");

    let (Some(agent), Some(add), Some(keygen)) = (tool("ssh-agent"), tool("ssh-add"), tool("ssh-keygen")) else {
        return skip(name, "there is no openssh-client here");
    };
    let socket = world.work.join("agent");
    let mut command = hermetic(agent, &world.home);
    command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
    let _agent = Kept(command.spawn().expect("ssh-agent starts"));
    wait_for("ssh-agent", LONG, || fs::metadata(&socket).is_ok_and(|data| data.file_type().is_socket()));
    let key = world.home.join(".ssh/id_test");
    // OpenSSH wants its caller to have a name: a user without one is root in a namespace of its own.
    let named = |program: PathBuf| match nix::unistd::User::from_uid(nix::unistd::geteuid()) {
        Ok(Some(_)) => hermetic(program, &world.home),
        _ => {
            let mut command = hermetic("unshare", &world.home);
            command.arg("-Ur").arg(program);
            command
        }
    };
    let make = named(keygen).args(["-q", "-t", "ed25519", "-N", "", "-C", "key-of-the-test", "-f"]).arg(&key).output();
    Done::new(make.expect("ssh-keygen starts")).expect_code(0);
    let added = named(add).arg(&key).env("SSH_AUTH_SOCK", &socket).output();
    Done::new(added.expect("ssh-add starts")).expect_code(0);
    let done = ask(&socket.display().to_string());
    assert_eq!(done.expect_code(0).out, "1 keys\nkey-of-the-test\n");

    let smidr = || world.smidr().env("SSH_AUTH_SOCK", &socket);
    let look = "echo $SSH_AUTH_SOCK; cat $HOME/.ssh/known_hosts; ls -A $HOME/.ssh; echo x >> $HOME/.ssh/known_hosts || echo kept";
    let done = smidr().args(["run", "--", "sh", "-c", look]).run();
    let expected = "/run/smidr/ssh-agent.sock\nexample.org ssh-ed25519 AAAA\nknown_hosts\nkept\n";
    assert_eq!(done.expect_code(0).out, expected, "the agent, and no key");
    let explain = smidr().args(["run", "--print-sandbox", "--", "true"]).run();
    explain.expect_code(0).expect_out(&format!("show {} as /run/smidr/ssh-agent.sock (read-only)", socket.display()));
    assert!(!explain.out.contains("id_test"), "{}", explain.out);
    // Without known hosts, there are none.
    fs::remove_file(world.home.join(".ssh/known_hosts")).expect("remove");
    ask(&socket.display().to_string()).expect_code(0);
}

/// A server that wants a password, and how often it got the right one.
fn guarded_server(right: &'static AtomicUsize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines: Vec<String> =
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            // printf 'me:pw-of-fetch' | base64
            let known = lines.iter().any(|line| line.eq_ignore_ascii_case("authorization: Basic bWU6cHctb2YtZmV0Y2g="));
            right.fetch_add(usize::from(known), Ordering::SeqCst);
            let status = if known { "200 OK" } else { "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    port
}

#[test]
fn only_fetchers_get_credential_variables() {
    static RIGHT: AtomicUsize = AtomicUsize::new(0);
    let Some(world) = World::with_project("inputs::only_fetchers_get_credential_variables") else { return };
    furnish(&world);
    file(&world.home.join(".netrc"), "machine 127.0.0.1 login me password pw-of-fetch\n", 0o600);
    let port = guarded_server(&RIGHT);
    let socket = world.work.join("agent");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let recipe = format!(
        r#"LICENSE = "MIT"
inherit nobuild
do_fetch[nostamp] = "1"
do_fetch[network] = "1"
python do_fetch() {{
    bb.fetch2.Fetch(["http://127.0.0.1:{port}/file"], d).checkstatus()
    bb.plain("fetched with the netrc")
    shown = "echo agent=$SSH_AUTH_SOCK config=$GIT_CONFIG_GLOBAL; cat $HOME/.netrc; test -S $SSH_AUTH_SOCK && echo socket; cat $GIT_CONFIG_GLOBAL"
    bb.note("\n" + bb.fetch2.runfetchcmd(shown, d))
    for name, value in sorted(bb.fetch2.get_fetcher_environment(d).items()):
        bb.note("fetcher %s=%s" % (name, value))
}}
addtask look after do_fetch before do_build
do_look[nostamp] = "1"
do_look() {{
    echo "agent=[$SSH_AUTH_SOCK] config=[$GIT_CONFIG_GLOBAL] proxy=[$http_proxy]"
    env
}}
"#
    );
    world.write("layers/meta-hello/recipes-test/fetcher/fetcher.bb", &recipe);
    let build = || {
        let smidr =
            world.smidr().env("SSH_AUTH_SOCK", &socket).env("MARKER", "pw-of-env").env("GITHUB_TOKEN", "pw-of-github");
        smidr.args(["build", "--target", "fetcher"]).run()
    };
    // BitBake's own fetcher, without the netrc: the server refuses.
    host(&world, "  proxies: false\n");
    build().expect_code(1).expect_err("failed in fetcher:do_fetch");
    assert_eq!(RIGHT.load(Ordering::SeqCst), 0);
    host(&world, "  proxies: false\n  ssh_agent: true\n  netrc: true\n  git_credentials: true\n");
    build().expect_code(0).expect_err("fetched with the netrc");
    assert!(RIGHT.load(Ordering::SeqCst) > 0);
    let log = |task: &str| world.smidr().args(["logs", "--task", task]).run();
    let fetch = log("fetcher:do_fetch");
    fetch
        .expect_code(0)
        .expect_out("agent=/run/smidr/ssh-agent.sock config=/.smidr/gitconfig")
        .expect_out("\nsocket\n");
    fetch.expect_out("machine 127.0.0.1 login me password ***").expect_out("git credential-store");
    fetch
        .expect_out("fetcher SSH_AUTH_SOCK=/run/smidr/ssh-agent.sock")
        .expect_out("fetcher GIT_CONFIG_GLOBAL=/.smidr/");
    assert!(!fetch.out.contains("fetcher GITHUB_TOKEN") && !fetch.out.contains("MARKER"), "{}", fetch.out);
    let look = log("fetcher:do_look");
    look.expect_code(0).expect_out("agent=[] config=[] proxy=[]").expect_out("\nHOME=");
    for name in ["SSH_AUTH_SOCK", "GIT_CONFIG_GLOBAL", "MARKER", "TOKEN", "SSL_CERT_FILE", "pw-of-"] {
        assert!(!look.out.contains(&format!("\n{name}")), "{name} in {}", look.out);
    }
}

#[test]
fn secrets_are_masked_in_everything_kept() {
    let Some(world) = World::with_project("inputs::secrets_are_masked_in_everything_kept") else { return };
    file(&world.home.join(".netrc"), "machine example.org login me password netrc#SECRET\n", 0o600);
    file(&world.home.join(".git-credentials"), "https://me:git%23SECRET@example.org\n", 0o600);
    host(&world, "  netrc: true\n  git_credentials: true\n  env: [MY_TOKEN]\n");
    super::trouble::recipe(
        &world,
        "leak",
        "    echo marker-of-the-log\n    cat $HOME/.netrc /run/smidr/git-credentials\n    echo 'MY ${MY_TOKEN} and ${http_proxy}'\n    \
         echo git#SECRET netrc%23SECRET netrc%23SECRET; printf 'me:netrc#SECRET' | base64; printf 'me:git#SECRET' | base64\n    \
         printf 'someone:${MY_TOKEN}' | base64\n    \
         for i in $(seq 3000); do echo \"$i ${MY_TOKEN}\"; done\n    echo \"last ${MY_TOKEN}\" >&2\n    exit 1",
    );
    let proxy = "http://me:proxy-SECRET@127.0.0.1:9";
    let smidr = || world.smidr().env("MY_TOKEN", "token/SECRET/1234").env("http_proxy", proxy).env("ftp_proxy", proxy);
    let build = smidr().args(["build", "--target", "leak", "--events", "json", "--", "-v"]).run();
    build.expect_code(1).expect_err("failed in leak:do_act");
    let id = build.build_id();
    let kept = world.smidr.join("builds").join(&id).join("logs/leak.do_act");
    let kept = fs::read_to_string(kept).expect("the log of the task that failed");
    assert!(kept.contains("marker-of-the-log") && kept.contains("login me password ***"), "{kept}");
    assert!(kept.lines().filter(|line| line.ends_with(" ***")).count() > 3000, "{kept}");
    // All forms of the secrets; BitBake's own log proves that they were printed.
    let forms = ["SECRET", "bWU6bmV0cmMjU0VDUkVU", "bWU6Z2l0I1NFQ1JFV", "b2tlbi9TRUNSRVQvMTIz"];
    let workspaces = world.smidr.join("workspaces");
    let logs = |form: &str| {
        let files = holding(&workspaces, form);
        files.iter().any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.do_act")))
    };
    for form in forms {
        assert!(logs(form), "the task did not print {form}");
    }
    let mut shown = vec![("build", build)];
    for args in [
        &["logs"][..],
        &["logs", "--task", "leak:do_act"],
        &["logs", "--task", "leak:do_patch"],
        &["status"],
        &["status", "--json"],
        &["status", &id],
        &["status", &id, "--json"],
        &["plan"],
        &["plan", "--json"],
        &["run", "--print-sandbox", "--", "true"],
        &["check"],
        &["build", "--target", "nothing-SUCH"],
    ] {
        shown.push((args.last().expect("a word"), smidr().args(args).run()));
    }
    let plan = shown.iter().find(|(what, done)| *what == "--json" && done.out.contains("\"plan\"")).expect("the plan");
    plan.1.expect_out("\"MY_TOKEN\",\n").expect_out("http://me:***@127.0.0.1:9");
    // The log of a task that did not fail comes from the workspace.
    super::trouble::recipe(
        &world,
        "leak",
        "    echo \"quiet ${MY_TOKEN}\"; mkdir -p ${TOPDIR}/buildhistory; echo \"record ${MY_TOKEN}\" > ${TOPDIR}/buildhistory/latest",
    );
    let built = smidr().args(["build", "--target", "leak"]).run();
    let record = world.smidr.join("builds").join(built.expect_code(0).build_id()).join("buildhistory/latest");
    assert_eq!(fs::read_to_string(record).expect("a record"), "record ***\n");
    shown.push(("build", built));
    let quiet = smidr().args(["logs", "--task", "leak:do_act"]).run();
    quiet.expect_code(0).expect_out("quiet ***");
    shown.push(("logs --task", quiet));
    // Without that build's secrets, they cannot be masked.
    let strange = smidr().env("MY_TOKEN", "another-token").args(["logs", "--task", "leak:do_act"]).run();
    strange
        .expect_code(2)
        .expect_one_error()
        .expect_err("may hold passwords or tokens of that build")
        .expect_err("less ");
    shown.push(("logs --task", strange));
    // With them and others, they can.
    let more = smidr().env("https_proxy", "http://me:another-one@127.0.0.1:9");
    more.args(["logs", "--task", "leak:do_act"]).run().expect_code(0).expect_out("quiet ***");
    for form in forms {
        for (what, done) in &shown {
            assert!(
                !done.out.contains(form) && !done.err.contains(form),
                "{what} shows {form}\n{}\n{}",
                done.out,
                done.err
            );
        }
        for place in ["builds", "history.db", "history.db-wal", "locks", "tmp"] {
            assert_eq!(holding(&world.smidr.join(place), form), [""; 0].map(PathBuf::from), "{place} holds {form}");
        }
    }
    // The same search finds other text.
    assert!(!holding(&world.smidr.join("builds"), "marker-of-the-log").is_empty());
    // The digests of the secrets are removed with the build.
    smidr().args(["artifacts", "clean", "--keep", "0"]).run().expect_code(0);
    let cleaned = smidr().env("MY_TOKEN", "").args(["logs", "--task", "leak:do_act"]).run();
    cleaned.expect_code(2).expect_one_error();
    assert!(!cleaned.out.contains("SECRET"), "{}", cleaned.out);
}

#[test]
fn binds_of_this_machine() {
    let Some(world) = World::with_project("inputs::binds_of_this_machine") else { return };
    let place = world.work.join("shown");
    file(&place.join("inner/file"), "inner\n", 0o644);
    file(&world.work.join("conf"), "conf\n", 0o644);
    file(&world.work.join("shown-evil/file"), "evil\n", 0o644);
    let writable = world.work.join("writable");
    fs::create_dir(&writable).expect("a folder");
    let _listener = UnixListener::bind(world.work.join("socket")).expect("a socket");
    symlink(&place, world.work.join("link")).expect("a link");
    host(
        &world,
        "  binds:
    - source: ../shown
    - {source: ../link, dest: /srv/deep/link}
    - {source: ../writable, dest: /srv/writable, writable: true}
    - {source: ../conf, dest: /etc/foo.conf}
    - {source: ../conf, dest: /run/x/conf}
    - {source: ../conf, dest: /tmp/conf}
    - {source: ../socket, dest: /srv/socket}
    - {source: ../conf, dest: /srv/deep/link/inner/file}
",
    );
    let plan = world.smidr().arg("plan").run();
    plan.expect_code(0).expect_out(&format!("bind: {} (read-only)", place.display()));
    plan.expect_out(&format!("bind: {} as /srv/writable (writable)", writable.display()));
    let explain = world.smidr().args(["run", "--print-sandbox", "--", "true"]).run();
    explain.expect_code(0).expect_out(&format!("show {} as /srv/deep/link (read-only)", place.display()));
    let script = format!(
        "cat {place}/inner/file /srv/deep/link/inner/file /etc/foo.conf /run/x/conf /tmp/conf
         test -S /srv/socket && echo socket; ls {place}-evil 2>/dev/null || echo no evil
         for f in {place}/new {place}/inner/file /etc/foo.conf /run/x/conf /srv/deep/new; do (echo x > $f) 2>/dev/null && echo wrote $f; done
         echo made > /srv/writable/made; cat /srv/writable/made; cat /etc/os-release >/dev/null && echo etc",
        place = place.display()
    );
    assert_eq!(says(&world, &script), "inner\nconf\nconf\nconf\nconf\nsocket\nno evil\nmade\netc");
    assert_eq!(fs::read_to_string(writable.join("made")).expect("a file"), "made\n");
    if let Some(done) = super::modes::without_overlay(&world, &["run", "--", "sh", "-c", &script]) {
        assert_eq!(done.expect_code(0).out.trim(), "inner\nconf\nconf\nconf\nconf\nsocket\nno evil\nmade\netc");
    }
    assert_eq!(World::names(&place), ["inner"], "no mount point is made in what is shown");
}

#[test]
fn wrong_binds_are_refused() {
    let Some(world) = World::with_project("inputs::wrong_binds_are_refused") else { return };
    fs::create_dir(world.work.join("folder")).expect("a folder");
    fs::create_dir(world.work.join("out")).expect("a folder");
    symlink("/", world.work.join("root")).expect("a link");
    symlink(&world.home, world.work.join("home-link")).expect("a link");
    symlink(world.smidr.join("locks"), world.work.join("smidr-link")).expect("a link");
    symlink("/etc", world.work.join("out/link")).expect("a link");
    let rows = [
        ("{source: ../nowhere}", "cannot read the bind ", "mkdir -p "),
        ("{source: ../root, dest: /srv/x}", "is the root of this machine", "name the one folder"),
        ("{source: ../home-link, dest: /srv/x}", "holds your home", "name the one folder"),
        ("{source: ../folder, dest: /etc/folder}", "only files can be shown below /etc", "dest: /srv/NAME"),
        // Debian's /var/run leads to /run.
        ("{source: ../folder, dest: /var/run/x}", "a link of the image", "dest: /srv/NAME"),
        ("{source: ../folder, dest: /srv/a}, {source: ../out, dest: /srv/a/b}", "has nothing of that name", "dest:"),
        ("{source: ../out, writable: true}, {source: ../out/link, dest: /srv/x}", "lies in a bind", "name the one"),
        ("{source: ./smidr.yaml, dest: /srv/x, writable: true}", "is smidr.yaml, and the build could", "name the one"),
        ("{source: ../project-link, dest: /srv/x, writable: true}", "holds smidr.yaml, and the", "name the one"),
        ("{source: ../layer-link, dest: /srv/x, writable: true}", "lies in the layer `", "name the one"),
        ("{source: ../elsewhere, dest: /srv/x, writable: true}", "holds the layer `", "name the one"),
        ("{source: ../hops, dest: /srv/x, writable: true}", "holds the layer `", "name the one"),
    ];
    // The layers stand behind two links: replacing either would choose the layers of the next build.
    for folder in ["elsewhere", "hops"] {
        fs::create_dir(world.work.join(folder)).expect("a folder");
    }
    let layers = world.project().join("layers");
    fs::rename(&layers, world.work.join("elsewhere/layers")).expect("moved");
    symlink("../elsewhere/layers", world.work.join("hops/hop")).expect("a link");
    symlink("../hops/hop", &layers).expect("a link");
    symlink(world.project(), world.work.join("project-link")).expect("a link");
    symlink("elsewhere/layers/meta-hello/conf", world.work.join("layer-link")).expect("a link");
    for (binds, why, hint) in rows {
        host(&world, &format!("  binds: [{binds}]\n"));
        let done = inside(&world, "true");
        done.expect_code(125).expect_one_error().expect_err(why).expect_err(hint);
    }
    // Every problem of the text at once, with its place.
    host(
        &world,
        "  ssh_agnet: true
  netrc: [a]
  proxies: perhaps
  binds:
    - {source: /srv, dest: srv}
    - {dest: /srv/a, writeable: true}
    - {source: /srv, dest: /etc/passwd}
    - {source: /srv/x, dest: /opt/x}
    - {source: /srv/y, dest: /opt//x/}
",
    );
    let check = world.smidr().arg("check").run();
    check.expect_code(2).expect_err("did you mean `ssh_agent`?").expect_err("host.netrc must be a single value");
    check
        .expect_err("host.proxies must be true or false")
        .expect_err("host.binds[0].dest: `srv` is not an absolute path");
    check.expect_err("host.binds[1].source is missing").expect_err("did you mean `writable`?");
    check
        .expect_err("host.binds[2].dest: `/etc/passwd` would hide")
        .expect_err("host.binds[4].dest: `/opt//x/` is taken");
    assert_eq!(check.err.matches(" --> smidr.yaml:").count(), 9, "{}", check.err);
}

#[test]
fn inputs_behind_writable_folders_are_refused() {
    let Some(world) = World::with_project("inputs::inputs_behind_writable_folders_are_refused") else {
        return;
    };
    // An earlier build may have replaced its own folders by links to other files.
    let canary = world.work.join("canary");
    file(&canary.join("secret"), "pw-of-canary\n", 0o644);
    let _other = UnixListener::bind(canary.join("agent")).expect("a socket");
    for folder in ["dl/x", "out"] {
        fs::create_dir_all(world.work.join(folder)).expect("folders");
    }
    for (link, target) in [
        ("dl/secret", "canary/secret"),
        ("dl/agent", "canary/agent"),
        ("dl/folder", "canary"),
        ("out/folder", "canary"),
        ("to-dl", "dl/folder"),
        ("to-out", "out/folder"),
    ] {
        symlink(world.work.join(target), world.work.join(link)).expect("a link");
    }
    symlink(world.smidr.join("images"), world.work.join("to-images")).expect("a link");
    let own = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    let with = |directories: &str, keys: &str| {
        let text = own.replace("\nbuild:", &format!("\ndirectories: {{{directories}}}\nbuild:"));
        fs::write(world.project().join("smidr.yaml"), text).expect("a config");
        host(&world, keys);
    };
    let at = |name: &str| world.work.join(name).display().to_string();
    let script = "cat /etc/ssl/certs/ca-certificates.crt $HOME/.ssh/known_hosts; echo x > $1/new";
    let refused = |variable: (&str, &str), why: &str| {
        let smidr = world.smidr().env(variable.0, variable.1);
        let done = smidr.args(["run", "--", "sh", "-c", script, "sh", &at("canary")]).run();
        done.expect_code(125).expect_one_error().expect_err(why).expect_err("hint: ");
        assert!(!done.out.contains("pw-of-canary"), "{}", done.out);
    };
    let none = ("LANG", "C");
    let out = "  binds: [{source: ../out, dest: /srv/out, writable: true}]\n";
    with("sstate: ../out/folder/ss", out);
    refused(none, "lies in the bind ");
    with("sstate: ../to-out/ss", out);
    refused(none, &format!("leads over {} in {}, where builds may", at("out/folder"), at("out")));
    with("downloads: ../dl, sstate: ../to-dl", "");
    refused(none, &format!("leads over {} in {}, where builds may", at("dl/folder"), at("dl")));
    with("downloads: ../to-images", "");
    refused(none, "the store of images");
    with("downloads: ../dl", "  ssh_agent: true\n");
    refused(("SSH_AUTH_SOCK", &at("dl/agent")), "lies where builds may write");
    refused(("SSL_CERT_FILE", &at("dl/secret")), "lies where builds may write");
    fs::create_dir_all(world.home.join(".ssh")).expect("a folder");
    symlink(world.work.join("dl/secret"), world.home.join(".ssh/known_hosts")).expect("a link");
    refused(("SSH_AUTH_SOCK", &at("canary/agent")), "lies where builds may write");
    assert_eq!(World::names(&canary), ["agent", "secret"]);
    // A folder behind a link that no build can change is allowed.
    fs::create_dir(world.work.join("far")).expect("a folder");
    symlink("far", world.work.join("near")).expect("a link");
    with("downloads: ../near/dl, sstate: ../near/ss", "");
    inside(&world, "true").expect_code(0);
    assert_eq!(World::names(&world.work.join("far")), ["dl", "ss"]);
    // So is one inside another, and a workspace that its user has moved to where there is room.
    with("sstate: ../near, downloads: ../near/dl", "");
    inside(&world, "true").expect_code(0);
    let workspaces = world.smidr.join("workspaces");
    let name = World::names(&workspaces).remove(0);
    fs::rename(workspaces.join(&name), world.work.join("moved")).expect("moved");
    symlink(world.work.join("moved"), workspaces.join(&name)).expect("a link");
    inside(&world, "true").expect_code(0);
    // But not what lies in a workspace of another project.
    fs::create_dir_all(workspaces.join("other-1234/out")).expect("folders");
    symlink(&canary, workspaces.join("other-1234/out/link")).expect("a link");
    fs::rename(&workspaces, world.work.join("elsewhere")).expect("moved");
    symlink(world.work.join("elsewhere"), &workspaces).expect("a link");
    with("", "  binds: [{source: ../elsewhere/other-1234/out/link, dest: /opt/x}]\n");
    refused(none, "lies where builds may write");
    with("", "  binds: [{source: ../elsewhere/other-1234/out, dest: /opt/x, writable: true}]\n");
    refused(none, "where builds may write");
}

#[test]
fn missing_devices_are_refused_with_a_hint() {
    let Some(world) = World::with_project("inputs::missing_devices_are_refused_with_a_hint") else { return };
    use nix::unistd::{AccessFlags, access};
    for (name, path) in [("kvm", "/dev/kvm"), ("tun", "/dev/net/tun"), ("fuse", "/dev/fuse")] {
        host(&world, &format!("  devices: [{name}]\n"));
        let done = inside(&world, &format!("test -c {path} && echo there"));
        if !Path::new(path).exists() {
            done.expect_code(125)
                .expect_one_error()
                .expect_err(&format!("there is no {path}"))
                .expect_err("sudo modprobe ");
        } else if access(path, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
            done.expect_code(125).expect_one_error().expect_err(&format!("you may not use {path}")).expect_err("sudo ");
        } else {
            assert_eq!(done.expect_code(0).out, "there\n");
        }
    }
}

#[test]
fn certificates_and_proxies_can_stay_outside() {
    let Some(world) = World::with_project("inputs::certificates_and_proxies_can_stay_outside") else { return };
    let bundle = world.work.join("bundle.crt");
    fs::write(&bundle, "a bundle of the test\n").expect("a bundle");
    let look = || {
        let script = "echo $http_proxy; echo $SSL_CERT_FILE; cat /etc/ssl/certs/ca-certificates.crt 2>/dev/null | grep -c 'of the test'";
        let smidr = world.smidr().env("SSL_CERT_FILE", &bundle).env("http_proxy", "http://proxy.example:1");
        smidr.args(["run", "--", "sh", "-c", &format!("{script}; true")]).run().expect_code(0).out.clone()
    };
    assert_eq!(look(), "http://proxy.example:1\n/etc/ssl/certs/ca-certificates.crt\n1\n");
    host(&world, "  certificates: false\n  proxies: false\n");
    assert_eq!(look(), "\n\n0\n");
    host(&world, "");
    assert_eq!(look(), "http://proxy.example:1\n/etc/ssl/certs/ca-certificates.crt\n1\n");
}
