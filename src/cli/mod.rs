//! The command line: one file per command, the only place that prints and reads the environment.

mod args;
mod artifacts;
mod attach;
mod board;
mod build;
mod cancel;
mod candidates;
mod check;
mod choose;
mod clean;
mod client;
mod command_context;
mod completions;
mod conf;
mod config_of;
mod context;
mod daemon;
mod daemon_args;
mod daemon_documents;
mod daemon_log;
mod daemon_ops;
mod doctor;
mod download;
mod du;
mod exchange_args;
mod explain;
mod export;
mod fmt;
mod follow;
mod history;
mod hooks;
mod image;
mod image_args;
mod import;
mod init;
mod kas;
mod keeper;
mod layers;
mod live;
mod local;
mod lock;
mod logs;
mod man;
mod output;
mod pace;
mod plan;
mod pty;
mod report;
mod reports;
mod schema;
mod several;
mod shell;
mod status;
mod template;
mod terminal;
mod tight;
mod times;
mod trust;
mod voice;
mod worker;
mod wrap;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser as _;

use args::{Cli, Command};

use crate::{
    model::Hint,
    project::{is_kas, is_setup},
    system::files::shell,
};

/// Says why a smidr that may do more than its caller does nothing: its caller decides what is mounted where.
pub fn refuse_privileges() -> ExitCode {
    let what = "smidr needs no privileges, and its file lends some (setuid, setgid or file capabilities)";
    let hint = Hint::command("take them away", "chmod ug-s FILE; setcap -r FILE");
    report::report(&report::Refused::new(what, [hint]).into())
}

/// What a command that may fetch allows; none for one that fetches nothing.
fn kas_rules(command: &Command) -> Option<kas::Rules> {
    match command {
        Command::Build(args) => Some(kas::Rules { locked: args.wanted.locked, offline: args.wanted.offline }),
        Command::Lock(_)
        | Command::Import(_)
        | Command::Export(_)
        | Command::Run(_)
        | Command::Shell(_)
        | Command::Layers(_)
        | Command::Client(_) => Some(kas::Rules::default()),
        _ => None,
    }
}

/// Parses the command line, runs the command, and reports how it ended.
pub fn main() -> ExitCode {
    if let Some(code) = completions::answer() {
        return code;
    }
    crate::system::process::allow_open_files();
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            voice::set_colour_of(std::env::args_os().collect::<Vec<_>>().iter().map(OsString::as_os_str));
            report::usage(&mut error);
            // clap says 2 for a wrong request and 0 for --help, as our table does.
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    voice::set(&cli.voice);
    if let Command::Build(args::Build { wanted, .. }) | Command::Plan(args::Plan { wanted, .. }) = &mut cli.command {
        let named: Vec<_> = wanted.targets.extract_if(.., |target| is_kas(Path::new(target))).collect();
        if let Some(manifest) = wanted.targets.iter().find(|target| import::is_manifest(Path::new(target))) {
            let what = "which layers of a manifest's repositories are used has to be confirmed first";
            let command = format!("smidr import {} --machine MACHINE --target TARGET", shell(Path::new(manifest)));
            let hint = [Hint::command("write them into a smidr.yaml", command)];
            return report::report(&report::Refused::new(what, hint).into());
        }
        let is_file = |target: &&String| {
            let path = Path::new(target);
            [".yml", ".yaml", ".json"].iter().any(|ending| target.ends_with(ending)) && !is_kas(path) && !is_setup(path)
        };
        if let Some(file) = wanted.targets.first().filter(is_file) {
            let what = match Path::new(file).is_file() {
                true => format!("{file} is no target, and no file of kas or bitbake-setup"),
                false => format!("there is no {file}"),
            };
            let hint = [Hint::new("a smidr.yaml of another name is given by -c FILE")];
            return report::report(&report::Refused::new(what, hint).into());
        }
        if let Some(setup) = choose::take_out(&mut wanted.targets) {
            cli.config = vec![setup];
        } else if !named.is_empty() {
            cli.config = named.into_iter().map(PathBuf::from).collect();
        }
    }
    if let Command::Import(args) = &cli.command {
        cli.config = vec![args.files.join(":").into()];
    }
    let configs = cli.config.into_iter().map(context::find_above).map(choose::choose);
    let configs = match configs.collect::<Result<Vec<_>, _>>() {
        Ok(configs) => configs,
        Err(failure) => return report::report(&failure),
    };
    let grant = cli.grant;
    let config = match (configs.as_slice(), &cli.command) {
        ([config], _) | ([config, ..], Command::Build(_)) => config.clone(),
        _ => {
            let hint = [Hint::new("name one:  --config FILE")];
            return report::report(&report::Refused::new("only `smidr build` takes several configs", hint).into());
        }
    };
    if let Some(rules) = kas_rules(&cli.command)
        && let Err(failure) = configs.iter().try_for_each(|config| kas::bring(config, &grant, rules))
    {
        return report::report(&failure);
    }
    let done = match cli.command {
        Command::Init(args) => init::init(&args),
        Command::Check(args) => check::check(&config, &grant, &args),
        Command::Plan(args) => plan::plan(&config, &grant, &args),
        Command::Build(args) => build::build(&configs, &grant, &args),
        Command::Lock(args) => lock::lock(&config, &grant, &args),
        Command::Layers(command) => layers::layers(&config, &grant, &command),
        Command::Run(args) => return shell::run(&config, &grant, args),
        Command::Shell(args) => return shell::shell(&config, &grant, args),
        Command::Conf(command) => conf::conf(&config, &command),
        Command::Trust(args) => trust::trust(&config, &args),
        Command::Untrust(args) => trust::untrust(&config, &args),
        Command::Status(args) => status::status(&args),
        Command::Logs(args) => logs::logs(&config, &args),
        Command::Explain(args) => explain::explain(&config, &args),
        Command::Attach(args) => attach::attach(&config, &args),
        Command::History(command) => history::history(&config, &command),
        Command::Kas { words } => return kas::kas(&grant, words),
        Command::Keeper => keeper::keeper(),
        Command::Worker(args) => worker::worker(&args),
        Command::ConfigOf(args) => config_of::config_of(&args),
        Command::Cancel(args) => cancel::cancel(&config, &args),
        Command::Artifacts(command) => artifacts::artifacts(&config, &command),
        Command::Image(command) => image::image(&config, &command),
        Command::Daemon(args) => daemon::daemon(&args),
        Command::Client(args) => client::client(&config, &grant, &args),
        Command::Du(args) => du::du(&args),
        Command::Clean(args) => clean::clean(&args),
        Command::Doctor(args) => doctor::doctor(&config, &args),
        Command::Man(args) => man::man(&args),
        Command::Import(args) => import::import(&config, &grant, &args),
        Command::Export(args) => export::export(&config, &args),
        Command::Fmt(args) => fmt::fmt(&config, &args),
        Command::Schema(args) => schema::schema(&args),
        Command::Completions(args) => completions::completions(&args),
    };
    let code = done.unwrap_or_else(|failure| report::report(&failure));
    match output::written().map_err(|lost| report::report(&lost.into())) {
        // What failed already says more.
        Err(of_lost) if code == ExitCode::SUCCESS => of_lost,
        _ => code,
    }
}
