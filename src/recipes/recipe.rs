//! Rootfs recipes: how a build-host image is made. Parses YAML into a checked [`Recipe`].

use crate::config::{
    Problem, Problems, Text,
    decode::{Decoder, Fields},
    node::Node,
};

/// A build-host image to be made.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Its base.
    pub base: Base,
    /// Packages of the base's distribution.
    pub packages: Vec<Text>,
    /// Python packages.
    pub pip: Option<Pip>,
    /// Files beside the recipe that are copied.
    pub files: Vec<FileCopy>,
    /// Shell commands that run in the image, as its root.
    pub commands: Vec<Text>,
    /// Whether they have this machine's network.
    pub network: bool,
    /// Environment of later programs in the image.
    pub env: Vec<(Text, Text)>,
}

/// The base of an image.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    /// Another image of the store.
    Image(Text),
    /// A recipe that comes with smidr: the image has what that one has, and more.
    Recipe(Text),
    /// Packages of a distribution.
    Packages(Suite),
}

/// A distribution's suite.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    /// `bookworm`, `noble`.
    pub suite: Text,
    /// `debian` or `ubuntu`.
    pub distribution: Text,
    /// Components; `main` unless the recipe says otherwise.
    pub components: Vec<String>,
    /// The mirror for a host whose own apt has none for that distribution.
    pub mirror: Option<Text>,
    /// The keyring that signs the suite; the host's own unless the recipe says otherwise.
    pub signed_by: Option<Text>,
}

/// Python packages, each pinned by its hash.
#[derive(Clone, Debug)]
pub(crate) struct Pip {
    /// The folder to install into; the interpreter's own unless the recipe says otherwise.
    pub target: Option<Text>,
    /// Lines of a requirements file, each with at least one `--hash`.
    pub requirements: Vec<Text>,
}

/// A file or folder to copy.
#[derive(Clone, Debug)]
pub(crate) struct FileCopy {
    /// Relative to the recipe.
    pub source: Text,
    /// Absolute, in the image.
    pub dest: Text,
    /// Permissions; by default 0755 for files that are executable for their owner, else 0644.
    pub mode: Option<u32>,
}

impl Recipe {
    /// Reads a recipe. `file` is its name in messages.
    ///
    /// # Errors
    ///
    /// All problems of the text, at once.
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, Problems> {
        let problems = |list| Problems { file: file.into(), text: text.into(), further: None, list };
        let root = Node::parse(text).map_err(|problem| problems(vec![problem]))?;
        // A recipe gives the same image for every caller: nothing of the environment is expanded.
        let mut d = Decoder::new(&|_| None);
        let mut f = d.fields(&root, "");
        // For readers of the file.
        f.text(&mut d, "description");
        let recipe = Self {
            base: base(&mut d, &mut f),
            packages: f.texts(&mut d, "packages"),
            pip: pip(&mut d, &mut f),
            files: files(&mut d, &mut f),
            commands: commands(&mut d, &mut f),
            network: f.flag(&mut d, "network").unwrap_or(false),
            env: f.fields(&mut d, "env").into_pairs(&mut d),
        };
        f.finish(&mut d);
        recipe.packages.iter().for_each(|package| check_package(&mut d, package));
        if d.problems.is_empty() { Ok(recipe) } else { Err(problems(d.problems)) }
    }
}

fn base(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Base {
    let mut f = f.fields(d, "base");
    if let Some(image) = f.text(d, "image") {
        f.finish(d);
        return Base::Image(image);
    }
    if let Some(recipe) = f.text(d, "recipe") {
        f.finish(d);
        return Base::Recipe(recipe);
    }
    let suite = Suite {
        suite: f.required(d, "suite"),
        distribution: f.required(d, "distribution"),
        components: f.texts(d, "components").into_iter().map(|text| text.text).collect(),
        mirror: f.text(d, "mirror"),
        signed_by: f.text(d, "signed_by"),
    };
    f.finish(d);
    let known = ["debian", "ubuntu"];
    if !suite.distribution.is_empty() && !known.contains(&&*suite.distribution) {
        let title = format!("base.distribution must be debian or ubuntu, not `{}`", suite.distribution);
        d.problem(
            Problem::new(suite.distribution.span.clone(), title)
                .hint("begin with an image of another one:  image: NAME"),
        );
    }
    // All of these become words of apt's sources.list, where a space or bracket would start another word.
    if let Some(mirror) = &suite.mirror {
        let web = mirror.starts_with("http://") || mirror.starts_with("https://");
        if !web || mirror.contains(|c: char| c.is_whitespace() || c.is_control() || "[]#".contains(c)) {
            d.problem(Problem::new(
                mirror.span.clone(),
                format!("base.mirror: `{mirror}` is not an http or https address"),
            ));
        }
    }
    if let Some(keyring) = &suite.signed_by {
        let path = |c: char| c.is_ascii_alphanumeric() || "/-._+".contains(c);
        if !keyring.starts_with('/') || !keyring.chars().all(path) {
            d.problem(Problem::new(
                keyring.span.clone(),
                format!("base.signed_by: `{keyring}` is not an absolute path"),
            ));
        }
    }
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    for text in suite.components.iter().map(String::as_str).chain([&*suite.suite]) {
        if !plain(text) {
            d.problem(Problem::new(suite.suite.span.clone(), format!("base: `{text}` is not a suite or component")));
        }
    }
    let components = if suite.components.is_empty() { vec!["main".into()] } else { suite.components };
    Base::Packages(Suite { components, ..suite })
}

fn pip(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<Pip> {
    let node = f.node("pip")?;
    let mut f = d.fields(node, "pip");
    let pip = Pip { target: f.text(d, "target"), requirements: f.texts(d, "requirements") };
    f.finish(d);
    for line in &pip.requirements {
        if !line.contains("--hash=sha256:") || !line.contains("==") {
            let title = format!("pip.requirements: `{line}` is not pinned");
            d.problem(
                Problem::new(line.span.clone(), title)
                    .hint("write  NAME==VERSION --hash=sha256:…  (pip hash prints it)"),
            );
        }
    }
    Some(pip)
}

fn files(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<FileCopy> {
    let mut files = Vec::new();
    for (i, node) in f.list(d, "files").iter().enumerate() {
        let mut f = d.fields(node, &format!("files[{i}]"));
        let (source, dest) = (f.required(d, "source"), f.required(d, "dest"));
        let mode = f.text(d, "mode").and_then(|text| {
            let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
            if mode.is_none() {
                d.problem(Problem::new(text.span, format!("files[{i}].mode must be octal, such as 0755")));
            }
            mode
        });
        f.finish(d);
        if source.starts_with('/') || source.split('/').any(|part| part == "..") {
            d.problem(Problem::new(source.span.clone(), format!("files[{i}].source must stand beside the recipe")));
        }
        if !dest.starts_with('/') && !dest.is_empty() {
            d.problem(Problem::new(dest.span.clone(), format!("files[{i}].dest must be absolute")));
        }
        files.push(FileCopy { source, dest, mode });
    }
    files
}

// Commands are shell: `${…}` in them is the shell's.
fn commands(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Text> {
    use crate::config::node::Value;
    f.list(d, "commands")
        .iter()
        .filter_map(|node| match &node.value {
            Value::Scalar(text) => Some(Text { span: node.span.clone(), text: text.clone() }),
            _ => {
                d.problem(Problem::new(node.span.clone(), "commands must be a list of shell commands"));
                None
            }
        })
        .collect()
}

/// Names become arguments of apt, where `-` begins an option and a suffix of `-` means removal.
fn check_package(d: &mut Decoder<'_>, package: &Text) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:".contains(c);
    let good = package.starts_with(|c: char| c.is_ascii_alphanumeric())
        && package.chars().all(plain)
        && (!package.ends_with(['-', '+']) || package.ends_with("++"));
    if !good {
        d.problem(Problem::new(package.span.clone(), format!("packages: `{package}` is not a package name")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_recipe() {
        let text = "\
base: {distribution: fedora, suite: \"40; rm\"}
packages: [gcc, -y, g++, 'foo-']
pip: {requirements: [bitbake-setup==2.19.0]}
files:
  - {source: ../../etc/shadow, dest: etc/x, mode: 0999}
comands: [true]
";
        match Recipe::read("x.yaml", text) {
            Ok(_) => panic!("no problem was found"),
            Err(problems) => insta::assert_snapshot!(problems.render(false)),
        }
    }

    #[test]
    fn nothing_of_a_recipe_becomes_an_option_or_a_line_of_apt() {
        let base = |rest: &str| format!("base: {{distribution: debian, suite: bookworm, {rest}}}\n");
        let rows = [
            "base: {distribution: debian, suite: bookworm}\npackages: ['-oAcquire::http::Proxy-Auto-Detect=./evil++']\n".into(),
            "base: {distribution: debian, suite: ../x}\n".into(),
            base("mirror: \"http://x/u noble main\\ndeb [trusted=yes] http://evil/\""),
            base("mirror: 'ssh://host/x'"),
            base("mirror: 'file:/etc'"),
            base("signed_by: '/x] [trusted=yes'"),
            base("signed_by: 'x.gpg'"),
            base("components: ['main [trusted=yes]']"),
        ];
        for row in rows {
            assert!(Recipe::read("x.yaml", &row).is_err(), "{row}");
        }
        let good = base("mirror: 'https://mirror.example.org/debian/', signed_by: /usr/share/keyrings/x.gpg")
            + "packages: [g++, libstdc++6]\n";
        assert!(Recipe::read("x.yaml", &good).is_ok());
    }
}
