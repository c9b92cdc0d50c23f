//! The [`Ask`]s of a project: what its config and plan need beyond building in its own folders. Pure: the caller resolves links.

use std::path::{Path, PathBuf};

use super::{
    Isolation, Plan,
    build::absolute,
    domain::Domain,
    inputs::What,
    sources::{PlannedGit, PlannedSource},
};
use crate::{
    config::{self, Config, HostImage},
    lock::lock_path,
    model::{Ask, folder_of, without_secrets},
};

/// Variables whose values a build sees anyway.
const HARMLESS: [&str; 4] = ["HOME", "LOGNAME", "SMIDR_HOME", "USER"];

/// The key of the store of layers.
const LAYERS: &str = "directories.layers";

/// Everything that a plan asks for, except what only its rootfs recipe names. `project` is the folder that is the project's own, `real` follows
/// links.
pub fn asks(config: &Config, plan: &Plan, project: &Path, real: &dyn Fn(&Path) -> PathBuf) -> Vec<Ask> {
    let project = real(project);
    let workspace = real(&plan.folders.workspace);
    let outside =
        |path: &Path| Some(real(path)).filter(|path| !path.starts_with(&project) && !path.starts_with(&workspace));
    let mut asks = Vec::new();
    if plan.isolation == Isolation::None {
        asks.push(Ask::NoIsolation);
    }
    for input in &plan.inputs {
        let Some(path) = input.source.as_deref().map(real) else { continue };
        match input.what {
            What::SshAgent | What::KnownHosts => {}
            What::Netrc | What::GitCredentials => asks.push(Ask::Credentials { path }),
            What::Bind => {
                asks.extend(input.git_writable.then(|| Ask::GitWritable { path: path.clone() }));
                asks.push(Ask::Bind { path, writable: input.writable });
            }
        }
    }
    if config.host.inputs.ssh_agent {
        asks.push(Ask::SshAgent);
    }
    asks.extend(config.host.env.iter().map(|name| variable(name, "host.env")));
    asks.extend(config.variables.iter().map(|used| variable(&used.name, &used.key)));
    // A proxy with a user's name, and so with a password. Names in `env` and `host.env` are the config's own, or asked for above.
    let named: Vec<&str> =
        config.env.iter().map(|(name, _)| name).chain(&config.host.env).map(|name| &*name.text).collect();
    let is_proxy = |name: &str| name.to_ascii_lowercase().contains("proxy") && !named.contains(&name);
    let proxies = plan.env.iter().filter(|(name, value)| value.contains('@') && is_proxy(name));
    asks.extend(proxies.map(|(name, _)| variable(name, Ask::PROXIES)));
    asks.retain(|ask| !matches!(ask, Ask::Variable { name, .. } if HARMLESS.contains(&name.as_str())));
    asks.extend(plan.devices.iter().map(|path| Ask::Device { path: path.clone() }));
    asks.extend((config.host.ids == config::Ids::Range).then_some(Ask::IdRange));
    let folders = &config.directories;
    let written = [
        (LAYERS, &folders.layers, &plan.layer_store),
        ("directories.downloads", &folders.downloads, &plan.folders.downloads),
        ("directories.sstate", &folders.sstate, &plan.folders.sstate),
        ("directories.tmp", &folders.tmp, &plan.folders.tmp),
        ("directories.deploy", &folders.deploy, &plan.folders.deploy),
        ("directories.build", &folders.build, &plan.folders.top),
    ];
    for (key, named, path) in written {
        // A folder in SMIDR_HOME is the default written out: the plan refuses any other there.
        if named.is_some() && !path.starts_with(&plan.smidr_home) {
            // Mirrors and checkouts in it are used without checks, and could be part of the project.
            let path = if key == LAYERS { Some(real(path)) } else { outside(path) };
            asks.extend(path.map(|path| Ask::Folder { key: key.into(), path }));
        }
    }
    let sources = plan.layers.iter().map(|layer| (format!("the layer {}", layer.name), &layer.source));
    for (what, source) in sources.chain(plan.bitbake.iter().map(|source| (config::BITBAKE.into(), source))) {
        match source {
            PlannedSource::Path(path) => asks.extend(outside(&path.folder).map(|path| Ask::Outside { what, path })),
            PlannedSource::Git(git) => {
                // What was submitted is read nowhere.
                let read = git.patches.iter().filter(|patch| patch.submitted.is_none());
                let patches = read.filter_map(|patch| outside(&patch.file));
                asks.extend(patches.map(|path| Ask::Outside { what: format!("a patch of {what}"), path }));
                asks.extend(git.outside_links.then_some(Ask::OutsideLinks { layer: what }));
                asks.extend(repository(git, real));
            }
        }
    }
    if let (HostImage::Recipe(name), None) = (&config.host.image, &plan.host.submitted) {
        let name = if name.contains('/') { name.text.clone() } else { format!("{}.yaml", name.text) };
        asks.extend(
            outside(&absolute(&plan.project, Path::new("/"), &name))
                .map(|path| Ask::Outside { what: "the rootfs recipe".into(), path }),
        );
    }
    // These decide what is built, as the config does, and may be links.
    let local = config::local_path(&plan.file);
    let locks = [(lock_path(&plan.file), "smidr.lock"), (lock_path(&local), "smidr.local.lock")];
    for (path, what) in [(local, "smidr.local.yaml")].into_iter().chain(locks) {
        asks.extend(outside(&path).map(|path| Ask::Outside { what: what.into(), path }));
    }
    let default = [(&folders.downloads, &plan.folders.downloads), (&folders.sstate, &plan.folders.sstate)];
    let is_the_customers = matches!(plan.domain, Domain::Customer(_));
    if !is_the_customers && default.iter().any(|(named, path)| named.is_none() || path.starts_with(&plan.smidr_home)) {
        asks.push(Ask::SharedCache { domain: config.cache.as_ref().map(|name| name.text.clone()) });
    }
    asks.sort();
    asks.dedup();
    asks
}

fn variable(name: &str, key: &str) -> Ask {
    // One ask for all mirrors.
    let key = key.split('[').next().unwrap_or(key);
    Ask::Variable { name: name.into(), key: key.into() }
}

/// Addresses that need this machine or the caller's keys.
fn repository(git: &PlannedGit, real: &dyn Fn(&Path) -> PathBuf) -> Vec<Ask> {
    let addresses = std::iter::once(&git.url).chain(&git.mirrors).map(|url| without_secrets(url));
    let ask = |url: String| match url.split_once("://") {
        // One inside the project needs an ask too: parts of it may be links to others.
        Some(("file", _)) => Some(Ask::LocalRepository { path: real(&folder_of(&url).unwrap_or_default()), url }),
        Some(("https" | "http" | "git", _)) => None,
        Some(_) | None => Some(Ask::SshRepository { url }),
    };
    addresses.filter_map(ask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::read,
        model::{BuildRequest, Paths, SystemFacts},
        plan::make,
    };

    fn asks_of(more: &str) -> Vec<String> {
        asks_with(&[], more)
    }

    fn asks_with(proxies: &[(&str, &str)], more: &str) -> Vec<String> {
        let text = format!("name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\n{more}\n");
        let lookup = |name: &str| Some(format!("value-of-{name}"));
        let config =
            read("smidr.yaml", &text, None, &lookup).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let facts = SystemFacts {
            fetch_env: proxies.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            environment: vec![("SSH_AUTH_SOCK".into(), "/tmp/a".into())],
            ..SystemFacts::of_an_ordinary_user()
        };
        let paths = Paths::new("/home/u/.smidr".into());
        let file = Path::new("/home/u/p/smidr.yaml");
        let plan = make(&config, None, &facts, &paths, file, &BuildRequest::default(), &Domain::Own).expect("a plan");
        // A link of the project that leads out of it.
        let real = |path: &Path| match path.strip_prefix("/home/u/p/link") {
            Ok(rest) => Path::new("/home/u/.ssh").join(rest).components().collect(),
            Err(_) => path.to_path_buf(),
        };
        asks(&config, &plan, &plan.project, &real).iter().map(|ask| serde_json::to_string(ask).expect("JSON")).collect()
    }

    #[test]
    fn every_ask_has_its_row() {
        let cache = r#"{"ask":"shared_cache"}"#;
        assert_eq!(asks_of("layers: [{name: l, path: ./layers/l}]"), [cache]);
        let rows = [
            ("host: {isolation: none}", r#"{"ask":"no_isolation"}"#),
            ("host: {binds: [{source: ~/c, dest: /srv/c}]}", r#"{"ask":"bind","path":"/home/u/c","writable":false}"#),
            (
                "host: {binds: [{source: ./link/x, dest: /srv/c, writable: true}]}",
                r#"{"ask":"bind","path":"/home/u/.ssh/x","writable":true}"#,
            ),
            (
                "host: {binds: [{source: ~/c, dest: /srv/c, writable: true, git_writable: true}]}",
                r#"{"ask":"git_writable","path":"/home/u/c"}"#,
            ),
            ("host: {netrc: true}", r#"{"ask":"credentials","path":"/home/u/.netrc"}"#),
            ("host: {git_credentials: ~/.ssh/id_rsa}", r#"{"ask":"credentials","path":"/home/u/.ssh/id_rsa"}"#),
            ("host: {ssh_agent: true}", r#"{"ask":"ssh_agent"}"#),
            ("host: {env: [AWS_SECRET]}", r#"{"ask":"variable","name":"AWS_SECRET","key":"host.env"}"#),
            ("env: {A: '${AWS_SECRET}'}", r#"{"ask":"variable","name":"AWS_SECRET","key":"env.A"}"#),
            (
                "layers: [{name: l, git: 'https://${T}@h/x', branch: b}]",
                r#"{"ask":"variable","name":"T","key":"layers"}"#,
            ),
            ("host: {devices: [kvm]}", r#"{"ask":"device","path":"/dev/kvm"}"#),
            ("host: {ids: range}", r#"{"ask":"id_range"}"#),
            ("directories: {sstate: ~/ss}", r#"{"ask":"folder","key":"directories.sstate","path":"/home/u/ss"}"#),
            ("directories: {tmp: ./link/t}", r#"{"ask":"folder","key":"directories.tmp","path":"/home/u/.ssh/t"}"#),
            ("directories: {layers: /srv/l}", r#"{"ask":"folder","key":"directories.layers","path":"/srv/l"}"#),
            (
                "layers: [{name: l, path: ../other/l}]",
                r#"{"ask":"outside","what":"the layer l","path":"/home/u/other/l"}"#,
            ),
            ("layers: [{name: l, path: ./link}]", r#"{"ask":"outside","what":"the layer l","path":"/home/u/.ssh"}"#),
            ("bitbake: {path: /opt/bb}", r#"{"ask":"outside","what":"bitbake","path":"/opt/bb"}"#),
            ("host: {recipe: ../r.yaml}", r#"{"ask":"outside","what":"the rootfs recipe","path":"/home/u/r.yaml"}"#),
            (
                "layers: [{name: l, git: 'file:///srv/l', branch: b}]",
                r#"{"ask":"local_repository","url":"file:///srv/l","path":"/srv/l"}"#,
            ),
            (
                "layers: [{name: l, git: 'ssh://git@h/l', branch: b}]",
                r#"{"ask":"ssh_repository","url":"ssh://git@h/l"}"#,
            ),
            ("layers: [{name: l, git: 'git@h:l', branch: b}]", r#"{"ask":"ssh_repository","url":"git@h:l"}"#),
            (
                "layers: [{name: l, git: 'https://h/l', branch: b, mirrors: ['git@h:l']}]",
                r#"{"ask":"ssh_repository","url":"git@h:l"}"#,
            ),
            (
                "layers: [{name: l, git: 'https://h/l', branch: b, outside_links: true}]",
                r#"{"ask":"outside_links","layer":"the layer l"}"#,
            ),
            (
                "layers: [{name: l, git: 'https://h/l', branch: b, patches: [../x.patch]}]",
                r#"{"ask":"outside","what":"a patch of the layer l","path":"/home/u/x.patch"}"#,
            ),
            ("directories: {layers: ./l}", r#"{"ask":"folder","key":"directories.layers","path":"/home/u/p/l"}"#),
            ("cache: team", r#"{"ask":"shared_cache","domain":"team"}"#),
        ];
        for (more, ask) in rows {
            let asks = asks_of(more);
            assert!(asks.iter().any(|known| known == ask), "{more}: {asks:#?}");
        }
    }

    #[test]
    fn a_proxy_with_a_password_is_asked_about_where_it_goes_in() {
        let proxies = [
            ("https_proxy", "http://u:p@proxy:3128"),
            ("http_proxy", "http://proxy:3128"),
            ("GIT_PROXY_COMMAND", "connect -H u:p@proxy"),
        ];
        let asked = |more: &str| -> Vec<String> {
            let asks = asks_with(&proxies, more).into_iter();
            asks.filter(|ask| ask.contains("roxy") || ask.contains("PROXY")).collect()
        };
        let row = |name: &str, key: &str| format!(r#"{{"ask":"variable","name":"{name}","key":"{key}"}}"#);
        let both = [row("GIT_PROXY_COMMAND", "host.network"), row("https_proxy", "host.network")];
        for more in ["", "host: {network: full}", "host: {network: fetch-only}"] {
            assert_eq!(asked(more), both, "{more}");
        }
        for more in ["host: {network: none}", "host: {proxies: false}"] {
            assert_eq!(asked(more), [""; 0], "{more}");
        }
        assert_eq!(asked("env: {https_proxy: 'http://me:x@own:1'}"), both[..1]);
        assert_eq!(asked("host: {env: [https_proxy]}"), [both[0].clone(), row("https_proxy", "host.env")]);
    }

    #[test]
    fn what_a_project_does_in_its_own_folders_is_no_ask() {
        for more in [
            "directories: {tmp: ./tmp, deploy: ./out}",
            "directories: {downloads: ~/.smidr/downloads, sstate: ~/.smidr/sstate-cache, layers: ~/.smidr/layers}",
            "layers: [{name: l, git: 'https://h/l', branch: b, patches: [./x.patch]}]",
            "host: {recipe: ./r.yaml, network: none, memory: 1g}",
            "env: {A: '${HOME}/x', B: '$${T}'}",
        ] {
            assert_eq!(asks_of(more), [r#"{"ask":"shared_cache"}"#], "{more}");
        }
        assert_eq!(asks_of("directories: {downloads: ./dl, sstate: ./ss}"), Vec::<String>::new());
    }
}
