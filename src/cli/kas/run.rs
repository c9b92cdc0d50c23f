//! `smidr kas`: kas's commands, with work trees in the work folder as kas has them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use super::{
    args::{self, DiffForm, DumpForm, KasCommand, Setup},
    bring::{Rules, bring_all},
    lock,
};
use crate::{
    cli::{
        args::{Build, Grant, Run, Wanted},
        build,
        command_context::CommandContext,
        context,
        output::{say_block, talk},
        report::{Done, Failure, Refused},
        shell, trust,
    },
    engine,
    kas::{Form, Node, Scalar, Value, bblayers_conf, dump, local_conf},
    layers::Settled,
    lock::{Pins, RepositoryPin},
    model::{BuildRequest, Kind},
    plan::Plan,
    project::{KasFiles, KasRead, Project, WholeKas},
    system::files::{FileError, write_atomically},
};

/// Runs one of kas's commands.
pub(in crate::cli) fn kas(grant: &Grant, words: Vec<String>) -> ExitCode {
    use clap::Parser as _;
    let parsed = args::Kas::try_parse_from(std::iter::once("smidr kas".to_owned()).chain(words.iter().cloned()));
    let kas = match parsed {
        Ok(kas) => kas,
        Err(mut error) => {
            crate::cli::report::usage(&mut error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match kas.command {
        KasCommand::Checkout(args) => checkout(&args.config, grant, &args.setup).map(|()| ExitCode::SUCCESS),
        KasCommand::Build(args) => return build_all(grant, args),
        KasCommand::Shell(args) => return shell_in(grant, args),
        KasCommand::ForAllRepos(args) => for_all(grant, &args),
        KasCommand::Dump(args) => dumped(grant, &args),
        KasCommand::Lock(args) => lock::lock(grant, &args),
        KasCommand::Diff(args) => diff(grant, &args),
        KasCommand::Purge(args) => purge(&args),
    };
    done.unwrap_or_else(|failure| code(&failure))
}

/// kas knows 2 for all that goes wrong, and 130 for Ctrl-C.
fn code(failure: &Failure) -> ExitCode {
    let cancelled = failure.kind() == Kind::Cancelled;
    crate::cli::report::report(failure);
    if cancelled { ExitCode::from(130) } else { ExitCode::from(2) }
}

/// A project, read whole, with what its repositories are pinned to.
pub(super) struct Set {
    pub files: KasFiles,
    pub whole: WholeKas,
    pub plan: Plan,
    pub pins: Vec<RepositoryPin>,
    pub context: CommandContext,
}

/// Reads the files, with what they include, and pins all repositories.
pub(super) fn set_up(config: &Path, grant: &Grant, setup: &Setup) -> Result<Set, Failure> {
    let context = CommandContext::open("kas")?;
    let mut files = KasFiles::of(config, &context.facts)?;
    (files.apart, files.locks) = (true, !setup.update);
    files.forget = setup.update;
    let whole = match files.read(&context.facts)? {
        KasRead::Whole(whole) => whole,
        KasRead::Wants(sources) => {
            bring_all(&files, *sources, grant, Rules::default(), &context)?;
            files.forget = false;
            match files.read(&context.facts)? {
                KasRead::Whole(whole) => whole,
                KasRead::Wants(_) => return Err(Refused::new("the includes cannot be read", None).into()),
            }
        }
    };
    whole.kas.warnings.iter().for_each(|warning| talk(format!("warning: {warning}")));
    let project = Project::of(whole.sources.clone(), None, &context.facts)?;
    let given = trust::given(&context.facts, grant);
    let request = BuildRequest::default();
    let judged = trust::settle(&project, &request, &context.facts, &context.paths, &given, &context.stop)?;
    let pins = engine::pin_repositories(&judged.plan, context.tools())?;
    project.pin(Pins { hosts: Vec::new(), repositories: pins.clone() }, &context.paths, false)?;
    Ok(Set { files, whole: *whole, plan: judged.plan, pins, context })
}

fn checkout(config: &Path, grant: &Grant, setup: &Setup) -> Result<(), Failure> {
    let set = set_up(config, grant, setup)?;
    for (name, settled) in engine::write_out(&set.plan, setup.force_checkout, set.context.tools())? {
        match settled {
            Settled::Made => talk(format!("checkout   {name}")),
            Settled::Moved => talk(format!("checkout   {name}, moved")),
            Settled::Dirty => talk(format!("warning: {name} has changes that are not committed, and stays as it is")),
            Settled::Same => {}
        }
    }
    check_init(&set)?;
    let conf = set.files.around.build.join("conf");
    fs::create_dir_all(&conf).map_err(FileError::new("make the folder", &conf))?;
    let kas = &set.whole.kas;
    for (name, text) in
        [("local.conf", local_conf(kas)), ("bblayers.conf", bblayers_conf(kas, &set.files.around.build))]
    {
        let file = conf.join(name);
        // An unchanged file keeps its time: BitBake parses everything anew otherwise.
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            continue;
        }
        write_atomically(&file, text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// kas looks for exactly one script that sets BitBake up.
fn check_init(set: &Set) -> Result<(), Failure> {
    let mut found: Vec<(&str, PathBuf)> = Vec::new();
    for one in &set.whole.kas.repositories {
        let folder = fs::canonicalize(&one.folder).unwrap_or_else(|_| one.folder.clone());
        if folder.join("oe-init-build-env").is_file() && found.iter().all(|(_, known)| *known != folder) {
            found.push((&one.id, folder));
        }
    }
    match found.as_slice() {
        [_] => Ok(()),
        [] => Err(Refused::new("no repository has oe-init-build-env in its root", None).into()),
        all => {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let what = format!("more than one repository has oe-init-build-env in its root: {}", names.join(", "));
            Err(Refused::new(what, None).into())
        }
    }
}

/// smidr itself, with what the caller grants.
fn itself(grant: &Grant) -> Command {
    let mut command = Command::new(ITSELF);
    command.args(grant.trust.iter().map(|digest| format!("--trust={digest}"))).arg("kas");
    command
}

const ITSELF: &str = "/proc/self/exe";

/// Checks out in a process of its own: signals and threads belong to the command that follows.
fn checkout_first(config: &Path, grant: &Grant, setup: &Setup, env: &[(&str, String)]) -> Result<(), ExitCode> {
    let mut command = itself(grant);
    command.arg("checkout").envs(env.iter().map(|(name, value)| (name, value)));
    command.args(setup.force_checkout.then_some("--force-checkout")).args(setup.update.then_some("--update"));
    match command.arg(config).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(130))),
        Err(error) => Err(code(&FileError::new("start", Path::new(ITSELF))(error).into())),
    }
}

fn build_all(grant: &Grant, args: args::Build) -> ExitCode {
    if !args.keep_config_unchanged {
        // What is asked for here is part of the conf, as if the environment had asked for it.
        let targets = (!args.target.is_empty()).then(|| ("KAS_TARGET", args.target.join(" ")));
        let task = args.c.or(args.task).map(|task| ("KAS_TASK", task));
        let env: Vec<(&str, String)> = targets.into_iter().chain(task).collect();
        if let Err(code) = checkout_first(&args.config, grant, &args.setup, &env) {
            return code;
        }
        let mut again = itself(grant);
        again.args(["build", "--keep-config-unchanged"]).arg(&args.config).arg("--").args(&args.extra);
        let error = again.envs(env.iter().map(|(name, value)| (name, value))).exec();
        return code(&FileError::new("start", Path::new(ITSELF))(error).into());
    }
    let targets = args.target;
    let wanted = Wanted { targets, bitbake_args: args.extra, ..Wanted::default() };
    let build = Build { wanted, ..Build::default() };
    match build::build(&[args.config], grant, &build) {
        // kas says 2, whatever BitBake says.
        Ok(done) if done == ExitCode::SUCCESS || done == ExitCode::from(130) => done,
        Ok(_) => ExitCode::from(2),
        Err(failure) => code(&failure),
    }
}

fn shell_in(grant: &Grant, args: args::Shell) -> ExitCode {
    if !args.keep_config_unchanged
        && let Err(code) = checkout_first(&args.config, grant, &args.setup, &[])
    {
        return code;
    }
    match args.command {
        Some(line) => {
            let command = ["sh", "-c", &line].map(String::from).to_vec();
            shell::run(&args.config, grant, Run { variant: None, print_sandbox: false, command })
        }
        None => {
            shell::shell(&args.config, grant, crate::cli::args::Shell { id: None, variant: None, print_sandbox: false })
        }
    }
}

fn for_all(grant: &Grant, args: &args::ForAllRepos) -> Done {
    if !args.keep_config_unchanged
        && let Err(code) = checkout_first(&args.config, grant, &args.setup, &[])
    {
        return Ok(code);
    }
    let facts = context::gather();
    let mut files = KasFiles::of(&args.config, &facts)?;
    files.apart = true;
    let KasRead::Whole(whole) = files.read(&facts)? else {
        return Err(Refused::new("the includes cannot be read", None).into());
    };
    for one in &whole.kas.repositories {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let of = |text: &Option<String>| if one.url.is_some() { self::text(text) } else { String::new() };
        let mut command = Command::new("sh");
        command.arg("-c").arg(&args.command).current_dir(&one.folder);
        command.env("KAS_REPO_NAME", &one.name).env("KAS_REPO_PATH", &one.folder);
        command.env("KAS_REPO_URL", of(&one.url)).env("KAS_REPO_COMMIT", of(&one.revision.commit));
        command.env("KAS_REPO_BRANCH", text(&one.revision.branch)).env("KAS_REPO_TAG", text(&one.revision.tag));
        command.env("KAS_REPO_REFSPEC", text(&one.revision.refspec));
        let status = command.status().map_err(FileError::new("start", Path::new("sh")))?;
        if !status.success() {
            talk(format!("{} ended with {} in {}", args.command, status.code().unwrap_or(130), one.folder.display()));
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

/// The commits of repositories, by id.
pub(super) fn commits(pins: &[RepositoryPin]) -> BTreeMap<&str, String> {
    pins.iter().filter_map(|pin| Some((pin.name.as_str(), pin.commit.as_ref()?.to_string()))).collect()
}

/// The merged configuration, its references resolved on request.
fn document(set: &Set, args: &args::Dump) -> Node {
    let mut config = set.whole.merged.config.clone();
    let commits = commits(&set.pins);
    if args.lock {
        return lock::document(commits.iter().map(|(id, commit)| (*id, commit.as_str())));
    }
    if args.resolve_refs {
        for one in set.whole.kas.repositories.iter().filter(|one| one.url.is_some()) {
            let (Some(commit), Some(node)) = (commits.get(one.id.as_str()), repository_mut(&mut config, &one.id))
            else {
                continue;
            };
            let of_tag = set.pins.iter().any(|pin| pin.name == one.id && pin.tag.is_some());
            // kas looks for a branch of that name, and leaves a tag as it is.
            if node.get("refspec").is_some() && of_tag {
                continue;
            }
            // What the files themselves name stays, such as the id of a tag.
            let commit = one.revision.commit.clone().unwrap_or_else(|| commit.clone());
            let key = if node.get("refspec").is_some() { "refspec" } else { "commit" };
            node.set(key, Node::text(commit));
        }
        config.remove("overrides");
    }
    if args.resolve_local {
        for one in set.whole.kas.repositories.iter().filter(|one| one.url.is_none()) {
            let Some(commit) = engine::head_of(&one.folder) else { continue };
            if let Some(node) = repository_mut(&mut config, &one.id) {
                node.set("url", Node::made(Value::Scalar(Scalar::Null)));
                node.set("commit", Node::text(commit.to_string()));
            }
        }
    }
    if args.resolve_env {
        let own: BTreeMap<String, String> = context::environment().into_iter().collect();
        if let Some((_, env)) = config.entries_mut().iter_mut().find(|(key, _)| key.is("env")) {
            for (key, node) in env.entries_mut() {
                if let Some(value) = own.get(&key.scalar.to_string()) {
                    *node = Node::text(value);
                }
            }
        }
    }
    config
}

fn repository_mut<'n>(config: &'n mut Node, id: &str) -> Option<&'n mut Node> {
    let (_, repositories) = config.entries_mut().iter_mut().find(|(key, _)| key.is("repos"))?;
    let found = repositories.entries_mut().iter_mut().find(|(key, _)| key.scalar.to_string() == id);
    found.map(|(_, node)| node)
}

fn dumped(grant: &Grant, args: &args::Dump) -> Done {
    let set = set_up(&args.config, grant, &args.setup)?;
    let form = if args.format == DumpForm::Json { Form::Json } else { Form::Yaml };
    say_block(dump(&document(&set, args), form, args.written.indent, args.written.sort).trim_end_matches('\n'));
    Ok(ExitCode::SUCCESS)
}

/// What differs between two configurations: values, and commits.
fn diff(grant: &Grant, args: &args::Diff) -> Done {
    let dumped = |config: &Path| -> Result<Node, Failure> {
        let mut command = itself(grant);
        command.args(["dump", "--resolve-refs", "--format", "json"]).arg(config);
        let output = command.stderr(std::process::Stdio::inherit()).output();
        let output = output.map_err(FileError::new("start", Path::new(ITSELF)))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.success() {
            true => crate::kas::parse(&text).map_err(|problem| Refused::new(problem.title, None).into()),
            false => Err(Refused::new(format!("{} cannot be read", config.display()), None).into()),
        }
    };
    let (before, after) = (dumped(&args.before)?, dumped(&args.after)?);
    let mut changed = crate::kas::differences(&before, &after);
    changed.retain(|(path, ..)| match path.starts_with("repos.") && path.ends_with(".commit") {
        true => !args.content_only,
        false => !args.commit_only,
    });
    match args.format {
        DiffForm::Json => say_block(dump(&crate::kas::as_node(&changed), Form::Json, 2, false).trim_end()),
        DiffForm::Text => {
            for (path, old, new) in &changed {
                let shown = |sign: char, node: &Option<Node>| {
                    node.as_ref().map(|node| format!("{sign} {path}: {}", crate::kas::in_short(node)))
                };
                [shown('-', old), shown('+', new)].into_iter().flatten().for_each(|line| say_block(&line));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes the work trees that smidr has made and that hold nothing of the user's, and the build folder.
fn purge(args: &args::Purge) -> Done {
    let facts = context::gather();
    let mut files = KasFiles::of(&args.config, &facts)?;
    files.apart = true;
    let mut folders: Vec<PathBuf> = Vec::new();
    if let KasRead::Whole(whole) = files.read(&facts)? {
        folders.extend(whole.kas.repositories.iter().filter(|one| one.url.is_some()).map(|one| one.folder.clone()));
    }
    for folder in folders.into_iter().filter(|folder| folder.exists()) {
        let is_empty = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty && engine::holds_work(&folder) {
            talk(format!("warning: {} has changes that are not committed, and stays", folder.display()));
            continue;
        }
        remove(&folder, args.dry_run)?;
    }
    let build = &files.around.build;
    if build.join("conf").is_dir() {
        remove(build, args.dry_run)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(folder: &Path, dry_run: bool) -> Result<(), Failure> {
    talk(format!("{} {}", if dry_run { "would remove" } else { "remove    " }, folder.display()));
    if !dry_run {
        crate::system::files::remove_tree(folder)?;
    }
    Ok(())
}
