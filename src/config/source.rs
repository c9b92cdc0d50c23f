//! Where layers and BitBake come from: the keys of `layers[]` and of `bitbake`.

use super::{
    decode::{Decoder, Fields, truth},
    node::{Span, Text, Value},
    problem::Problem,
    schema::{GitSource, Layer, Source, SubmoduleKey, WithoutBranch},
};
use crate::model::{CommitId, is_ambiguous, scp_parts};

/// The name of the repository of `bitbake:` in smidr.lock.
pub const BITBAKE: &str = "bitbake";

/// The name of the build host for `smidr lock --update`.
pub const HOST: &str = "host";

/// Keys that are only for git repositories.
pub(super) const GIT_ONLY: [&str; 7] = ["branch", "tag", "commit", "mirrors", "patches", "outside_links", "submodules"];

/// Reads the section `layers`. `series` is the branch of those that name none.
pub(super) fn layers(d: &mut Decoder<'_>, f: &mut Fields<'_>, series: Option<&Text>) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for (i, node) in f.list(d, "layers").iter().enumerate() {
        let mut f = d.fields(node, &format!("layers[{i}]"));
        let name = f.required(d, "name");
        if let Some(twin) = layers.iter().find(|layer| layer.name.text == name.text && !name.is_empty()) {
            let title = format!("two layers are called `{}`", twin.name);
            d.problem(Problem::new(name.span.clone(), title));
        }
        let source = source(d, &mut f, series);
        let mut sublayers = f.fields(d, "sublayers");
        let (include, exclude) = (folders(d, &mut sublayers, "include"), folders(d, &mut sublayers, "exclude"));
        sublayers.finish(d);
        let ignore_series = f.flag(d, "ignore_series").unwrap_or_default();
        let has_layers = f.flag(d, "has_layers").unwrap_or(true);
        let at = f.text(d, "at");
        check_folders(d, &f.path("at"), at.as_slice());
        f.finish(d);
        if let Some(source) = source {
            layers.push(Layer { name, source, include, exclude, ignore_series, has_layers, at });
        }
    }
    layers
}

/// Reads the section `bitbake`.
pub(super) fn bitbake(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<Source> {
    let node = f.node(BITBAKE)?;
    let mut inner = d.fields(node, BITBAKE);
    let source = source(d, &mut inner, None);
    inner.finish(d);
    source
}

fn source(d: &mut Decoder<'_>, f: &mut Fields<'_>, series: Option<&Text>) -> Option<Source> {
    let (path, url) = (f.text(d, "path"), f.text(d, "git"));
    let place = f.span.clone();
    match (path, url) {
        (Some(path), None) => {
            for key in GIT_ONLY {
                if let Some(node) = f.node(key) {
                    let title = format!("{} belongs to git layers, and this one is a path", f.path(key));
                    d.problem(Problem::new(node.span.clone(), title));
                }
            }
            Some(Source::Path(path))
        }
        (None, Some(url)) => Some(Source::Git(git(d, f, url, series))),
        (Some(path), Some(_)) => {
            d.problem(Problem::new(path.span, format!("{} and git exclude each other", f.path("path"))));
            GIT_ONLY.into_iter().for_each(|key| _ = f.node(key));
            None
        }
        (None, None) => {
            let title = format!("{} is missing", f.path("git"));
            let key = if f.excuses("path") { "path" } else { "git" };
            f.lacks(key, Problem::new(place.start..place.start, title).hint("write `git: URL` or `path: FOLDER`"));
            GIT_ONLY.into_iter().for_each(|key| _ = f.node(key));
            None
        }
    }
}

fn git(d: &mut Decoder<'_>, f: &mut Fields<'_>, url: Text, series: Option<&Text>) -> GitSource {
    let (branch, tag) = (reference(d, f, "branch"), reference(d, f, "tag"));
    let commit = f.text(d, "commit");
    let named = branch.is_some() || tag.is_some() || commit.is_some();
    let commit = commit.and_then(|text| {
        let expected = match text.len() {
            64 => "the id of a commit of a repository of SHA-1 (40 lower-case digits)",
            _ => "the whole id of a commit, as `git rev-parse` prints it (40 lower-case digits)",
        };
        d.parse::<CommitId>(text, &f.path("commit"), expected)
    });
    let branch = if named { branch } else { series.cloned() };
    if branch.is_none() && !named {
        let title = format!("{} names no branch, tag or commit", f.path("git"));
        d.problem(Problem::new(url.span.clone(), title).hint("add `branch:`, or `yocto_series:` for all layers"));
    }
    let mirrors = f.texts(d, "mirrors");
    for (address, key) in [(&url, "git")].into_iter().chain(mirrors.iter().map(|mirror| (mirror, "mirrors"))) {
        if let Some(why) = refused_address(address) {
            let title = format!("{}: `{}` {why}", f.path(key), address.text);
            d.problem(
                Problem::new(address.span.clone(), title)
                    .hint("https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, git://HOST/PATH or file:///PATH"),
            );
        }
    }
    GitSource {
        url,
        branch,
        tag,
        commit,
        without_branch: match () {
            () if d.of_another_tool => WithoutBranch::Tag,
            () if !named || d.of_go => WithoutBranch::Continue,
            () => WithoutBranch::Fail,
        },
        mirrors,
        patches: f.texts(d, "patches"),
        outside_links: f.flag(d, "outside_links").unwrap_or_default(),
        submodules: submodules(d, f),
    }
}

fn submodules(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<SubmoduleKey> {
    let path = f.path("submodules");
    let node = f.node("submodules")?;
    if let Value::List(_) = node.value {
        let listed = d.texts(node, &path);
        check_folders(d, &path, &listed);
        return Some(SubmoduleKey::Listed(listed));
    }
    let text = d.text(node, &path)?;
    let flag = truth(&text);
    if flag.is_none() {
        let title = format!("{path} must be true, false or a list of folders, not `{}`", text.text);
        d.problem(Problem::new(text.span.clone(), title).hint(format!("write `[{}]` for that one", text.text)));
    }
    flag.map(SubmoduleKey::Flag)
}

/// Schemes of addresses; the last two are git's old names of ssh.
const SCHEMES: [&str; 7] = ["https", "http", "ssh", "git", "file", "git+ssh", "ssh+git"];

/// Why git must not get this address, if so.
fn refused_address(address: &str) -> Option<&'static str> {
    // HTTP clients read `\` as `/`, git does not: `https://one\@other/x` is the host `one` for the former and `other` for the latter.
    let plain = |text: &str| text.chars().all(|c| (c == ' ' || !c.is_whitespace()) && !c.is_control() && c != '\\');
    if address.is_empty() || address.starts_with('-') || !plain(address) {
        return Some("is not an address");
    }
    // A space ends an address in a text, from which its password would then not be cut.
    if is_ambiguous(&address.replace(' ', "%20")) {
        return Some("has a `?`, `#` or `/` where its host stands; in a password they are written %3F, %23 and %2F");
    }
    if let Some((scheme, rest)) = address.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        // ssh would take such a host for an option of its own (CVE-2017-1000117).
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return match SCHEMES.contains(&scheme) {
            false => Some("has an unknown scheme"),
            true if scheme.starts_with("http") && rest.contains(' ') => Some("has a space, which is written %20"),
            true if authority.contains(' ') || host.starts_with('-') || rest.is_empty() => Some("names no host"),
            true => None,
        };
    }
    match scp_parts(address) {
        // For git, `ext::sh -c …` is a program, not a host.
        Some((host, path)) if path.starts_with(':') || host.contains(['/', ' ']) || host.is_empty() => {
            Some("is not an address")
        }
        Some((host, path)) => {
            let is_option = host.split(['@', '[']).any(|part| part.starts_with('-'));
            (is_option || path.starts_with('-') || path.is_empty()).then_some("names no host")
        }
        None if address.contains(':') => Some("is not an address"),
        None => Some("is a folder, not an address"),
    }
}

fn reference(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Option<Text> {
    let text = f.text(d, key)?;
    if is_reference(&text) {
        return Some(text);
    }
    let title = format!("{}: `{}` cannot be the name of a branch or tag", f.path(key), text.text);
    d.problem(
        Problem::new(text.span.clone(), title)
            .hint("without refs/heads/ or refs/tags/, as git-check-ref-format(1) has it"),
    );
    None
}

/// git-check-ref-format(1), for names below refs/heads/ and refs/tags/.
fn is_reference(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !name.starts_with('-')
        && !name.starts_with("refs/")
        && name != "@"
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(forbidden)
        && name.split('/').all(part)
}

/// Folders inside a repository.
fn folders(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Vec<Text> {
    let folders = f.texts(d, key);
    check_folders(d, &f.path(key), &folders);
    folders
}

fn check_folders(d: &mut Decoder<'_>, path: &str, folders: &[Text]) {
    for folder in folders {
        let leaves = folder.split('/').any(|part| part == "..");
        if leaves || folder.starts_with('/') || folder.is_empty() {
            let title = format!("{path}: `{}` is not a folder inside the repository", folder.text);
            d.problem(Problem::new(folder.span.clone(), title));
        }
    }
}

/// Refuses names of layers that would be ambiguous in smidr.lock.
pub(super) fn check_names(d: &mut Decoder<'_>, layers: &[Layer], bitbake: Option<&Source>) {
    for layer in layers {
        let section = match layer.name.text.as_str() {
            BITBAKE if bitbake.is_some() => BITBAKE,
            HOST => HOST,
            _ => continue,
        };
        let span: Span = layer.name.span.clone();
        let title = format!("`{section}` is the name of the section `{section}:`; give the layer another name");
        d.problem(Problem::new(span, title));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "https://git.yoctoproject.org/poky",
            "ssh://git@host:29418/x.git",
            "git@host:group/x.git",
            "host:x",
            "git://git.openembedded.org/bitbake",
            "file:///srv/git/poky.git",
            "file:///srv/my git/sp%20ace.git",
            "ssh://git@host/my x.git",
            "git+ssh://git@host/x.git",
            "ssh+git://git@host/x.git",
            "git@host:My Project/x.git",
            "git@[::1]:x.git",
            "[::1]:x.git",
            "[git@host:2222]:x.git",
            "https://host/my%20x.git",
        ] {
            assert_eq!(refused_address(good), None, "{good}");
        }
        for bad in [
            "",
            "--upload-pack=touch x",
            "-x",
            "ext::sh -c touch",
            "ext::touch",
            "ssh://-oProxyCommand=x/y",
            "ssh://me@-oProxyCommand=x/y",
            "me@-oProxyCommand=x:y",
            "-oProxyCommand=x:y",
            "host:-x",
            "ftp://host/x",
            "https://",
            "/srv/git/poky",
            "../poky",
            "./x:y",
            "a b:c",
            "host:",
            "https://host/a b",
            "https://a b/c",
            "ssh://me:p w@host/x",
            "ssh://me:p/w x@host/y",
            "git@[-oProxyCommand=x]:y",
            "[-oProxyCommand=x]:y",
            "git@[::1]:",
            "git@[::1]",
            "file:///a\tb",
            "https://evil\\@host/x",
            "https://me:pa/ss@host/x",
        ] {
            assert!(refused_address(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn names_of_branches_and_tags() {
        for good in ["scarthgap", "kirkstone-6.x.y", "feature/x", "4.0_M1", "v1", "yocto-5.0.3"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--all",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "refs/heads/x",
            "x.lock",
            "a//b",
            "/a",
            "a/",
            ".a",
            "@",
            "a@{1}",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
