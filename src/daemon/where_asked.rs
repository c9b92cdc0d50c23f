//! Where a config asks for something: from an ask to the keys that lead to its line. Pure, and best effort: where the line is not known,
//! its section is named, or nothing.

use std::path::Path;

use crate::{
    config::{BITBAKE, Config, HostImage, Source},
    model::{Ask, Logins, without_secrets},
};

/// The keys that lead to what asks, as [`crate::config::place`] takes them.
pub(super) fn keys(ask: &Ask, config: &Config) -> Vec<String> {
    let host = |key: &str| owned(&["host", key]);
    match ask {
        Ask::NoIsolation => host("isolation"),
        Ask::Bind { path, .. } | Ask::GitWritable { path } => bind(path, config),
        Ask::Credentials { path } => host(credentials(path, config)),
        Ask::SshAgent => host("ssh_agent"),
        Ask::Variable { key, .. } | Ask::Folder { key, .. } => owned(&key.split('.').collect::<Vec<_>>()),
        // The last part of /dev/kvm and of /dev/net/tun is its name.
        Ask::Device { path } => owned(&["host", "devices", &last(path)]),
        Ask::Outside { what, .. } => outside(what),
        Ask::LocalRepository { url, .. } | Ask::SshRepository { url } => {
            repository(config, |known| known == url).unwrap_or_else(|| owned(&["layers"]))
        }
        Ask::Login { below } => {
            let below = Logins::Below(vec![below.clone()]);
            repository(config, |known| below.reach(known)).unwrap_or_else(|| image(config))
        }
        Ask::OutsideLinks { layer } => [named(layer), owned(&["outside_links"])].concat(),
        Ask::IdRange => host("ids"),
        Ask::RecipeCommands { .. }
        | Ask::RecipeCredentials { .. }
        | Ask::RecipeMirror { .. }
        | Ask::RecipeKeys { .. }
        | Ask::StoredImage { .. } => image(config),
        Ask::LeftConf { .. } => Vec::new(),
        Ask::SharedCache { .. } => owned(&["cache"]),
    }
}

/// Those of the build host's image.
pub(super) fn image(config: &Config) -> Vec<String> {
    match config.host.image {
        HostImage::Recipe(_) => owned(&["host", "recipe"]),
        HostImage::Image(_) => owned(&["host", "image"]),
    }
}

/// The bind whose source is called so; links may have led elsewhere.
fn bind(path: &Path, config: &Config) -> Vec<String> {
    let binds = &config.host.inputs.binds;
    let is_it = |same: &dyn Fn(&Path) -> bool| binds.iter().position(|bind| same(Path::new(&bind.source.text)));
    let at = is_it(&|source| source == path).or_else(|| is_it(&|source| source.file_name() == path.file_name()));
    let all = owned(&["host", "binds"]);
    at.map_or(all.clone(), |at| [all, vec![at.to_string()]].concat())
}

fn credentials(path: &Path, config: &Config) -> &'static str {
    let inputs = &config.host.inputs;
    let is_git =
        inputs.git_credentials.as_ref().is_some_and(|named| Path::new(&named.text).file_name() == path.file_name());
    if is_git || inputs.netrc.is_none() { "git_credentials" } else { "netrc" }
}

fn outside(what: &str) -> Vec<String> {
    if what == "the rootfs recipe" {
        return owned(&["host", "recipe"]);
    }
    if let Some(source) = what.strip_prefix("a patch of ") {
        return [named(source), owned(&["patches"])].concat();
    }
    // Here a layer has its plain name.
    match what.strip_prefix("the repository of ") {
        Some(BITBAKE) => owned(&[BITBAKE, "path"]),
        Some(layer) => owned(&["layers", layer, "path"]),
        None if what == BITBAKE || what.starts_with(LAYER) => [named(what), owned(&["path"])].concat(),
        None => Vec::new(),
    }
}

/// Begins the names of layers in asks.
const LAYER: &str = "the layer ";

fn named(source: &str) -> Vec<String> {
    match source.strip_prefix(LAYER) {
        Some(layer) => owned(&["layers", layer]),
        None => owned(&[source]),
    }
}

/// The line of a repository's address.
fn repository(config: &Config, is_it: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let layers = config.layers.iter().map(|layer| (owned(&["layers", &layer.name.text]), &layer.source));
    let sources = layers.chain(config.bitbake.iter().map(|source| (owned(&[BITBAKE]), source)));
    for (keys, source) in sources {
        let Source::Git(git) = source else { continue };
        if is_it(&without_secrets(&git.url.text)) {
            return Some([keys, owned(&["git"])].concat());
        }
        if let Some(at) = git.mirrors.iter().position(|mirror| is_it(&without_secrets(&mirror.text))) {
            return Some([keys, owned(&["mirrors", &at.to_string()])].concat());
        }
    }
    None
}

fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        model::{BuildRequest, Paths, SystemFacts},
        plan::{self, Domain},
    };

    /// Asks as a plan makes them: their words may change there.
    #[test]
    fn what_a_plan_asks_has_its_line() {
        let text = "\
name: x
base: {machine: m}
build: {image: i}
bitbake:
  path: /opt/bb
layers:
  - {name: own, path: ../own}
  - name: far
    git: git@h:team/far
    branch: b
    outside_links: true
    patches: [../x.patch]
    mirrors: ['file:///srv/far']
host:
  recipe: ../r.yaml
  ids: range
  ssh_agent: true
  git_credentials: /srv/keys/git
  devices: [tun]
  binds: [{source: ~/c, dest: /srv/c}]
directories: {sstate: /srv/ss}
";
        let config = config::read("smidr.yaml", text, None, &|_| None).expect("a config");
        let environment = vec![("SSH_AUTH_SOCK".into(), "/tmp/agent".into())];
        let facts = SystemFacts { environment, ..SystemFacts::of_an_ordinary_user() };
        let (paths, request) = (Paths::new("/home/u/.smidr".into()), BuildRequest::default());
        let file = Path::new("/home/u/p/smidr.yaml");
        let plan = plan::make(&config, None, &facts, &paths, file, &request, &Domain::Own).expect("a plan");
        let asks = plan::asks(&config, &plan, &plan.project, &|path| path.to_path_buf());
        // Downloads are those of the user, and nothing in the text says so.
        let asks: Vec<Ask> = asks.into_iter().filter(|ask| !matches!(ask, Ask::SharedCache { .. })).collect();
        let mut marked: Vec<&str> = Vec::new();
        for ask in &asks {
            let span = config::place(&text.into(), None, &keys(ask, &config));
            marked.push(span.and_then(|span| text.get(span)).unwrap_or_else(|| panic!("{ask:?} has no line")));
        }
        marked.sort_unstable();
        let wanted = [
            "'file:///srv/far'",
            "../own",
            "../r.yaml",
            "/opt/bb",
            "/srv/keys/git",
            "/srv/ss",
            "git@h:team/far",
            "patches",
            "range",
            "true",
            "true",
            "tun",
            "~/c",
        ];
        assert_eq!(marked, wanted);
    }
}
