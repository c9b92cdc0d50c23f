//! All keys of `smidr.yaml`, with their types and checks.

use super::{
    as_is::as_is,
    decode::{Decoder, Fields, KnownKey, Lookup, truth},
    host::host,
    node::{Node, Text, Value},
    problem::{Problem, Problems},
    provider,
    schema::*,
    series,
    source::{bitbake, check_names, layers},
    texts::{LOCAL_CONF, Texts},
    values::Minutes,
};
use crate::model::{BuildId, CUSTOMER, Recovery};

/// Reads a config. `file` is its name in messages, `variant` an overlay of the same file, `lookup` reads the environment.
///
/// # Errors
///
/// Every problem that the text has, at once.
pub fn read(file: &str, text: &str, variant: Option<&str>, lookup: Lookup<'_>) -> Result<Config, Problems> {
    match examine(&text.into(), variant, lookup) {
        (Some(config), list) if list.is_empty() => Ok(config),
        (_, list) => Err(Problems { file: file.into(), text: text.into(), further: None, list }),
    }
}

/// Reads as much of a config as can be read, with every problem that its texts have. What is wrong is missing in the config.
pub fn examine(texts: &Texts, variant: Option<&str>, lookup: Lookup<'_>) -> (Option<Config>, Vec<Problem>) {
    let (root, problems) = texts.tree(variant);
    let Some(root) = root else { return (None, problems) };
    let mut d = Decoder::new(lookup);
    d.problems = problems;
    let source = root.get("directories").and_then(|directories| directories.get("source"));
    d.of_go = root.get("container").or(source).is_some();
    d.of_another_tool = root.get("as_is").is_some();
    let mut config = config(&mut d, &root);
    config.variables = std::mem::take(&mut d.variables);
    config.warnings = std::mem::take(&mut d.warnings);
    config.warnings.extend(series::warnings(&config));
    let unknown = || Text { text: "unknown".into(), ..Text::default() };
    if !BuildId::is_valid_name(&config.name) {
        config.name = unknown();
    }
    if !config.whole {
        config.base.machine.get_or_insert_with(unknown);
        config.build.image = Some(config.build.image).filter(|image| !image.is_empty()).unwrap_or_else(unknown);
    }
    let is_mapping = matches!(root.value, Value::Map(_));
    (is_mapping.then_some(config), d.problems)
}

/// All keys, as they are asked for.
pub fn known_keys() -> Vec<KnownKey> {
    // Of a git repository more is asked than of a folder.
    const PROBE: &str = "layers: [{git: 'https://h/x', branch: b}]\nhost: {binds: [{}]}\nbitbake: {git: 'https://h/x', branch: b}\nas_is: {}\n";
    let mut d = Decoder::new(&|_| None);
    config(&mut d, &Node::parse(PROBE).expect("a fixed text"));
    d.known
}

/// A name for caches that several projects share.
fn cache(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<Text> {
    // The Go smidr's examples have a mapping here, which it did not read.
    let node = f.node("cache")?;
    if let Value::Map(_) = node.value {
        d.warnings.push(Problem::new(node.span.clone(), "`cache` has no effect as a mapping; see `directories`"));
        return None;
    }
    let text = d.text(node, "cache")?;
    if BuildId::is_valid_name(&text) && ![PRIVATE, CUSTOMER].iter().any(|own| text.starts_with(own)) {
        return Some(text);
    }
    let title = format!("cache: `{}` cannot name caches", text.text);
    d.problem(Problem::new(text.span, title).hint(format!(
        "use up to 64 letters, digits, dots, underscores and dashes, not beginning with `{PRIVATE}` or `{CUSTOMER}`"
    )));
    None
}

/// The prefix of the names of caches that belong to one project.
pub const PRIVATE: &str = "private-";

fn config(d: &mut Decoder<'_>, root: &Node) -> Config {
    let mut f = d.fields(root, "");
    let name = f.required(d, "name");
    if !name.is_empty() && !BuildId::is_valid_name(&name) {
        let title = format!("`{name}` cannot name a project");
        d.problem(
            Problem::new(name.span.clone(), title)
                .hint("use up to 64 letters, digits, dots, underscores and dashes, beginning with a letter or digit"),
        );
    }
    let (mut base, is_told) = base(d, &mut f);
    let own_series = f.text(d, "yocto_series");
    provider::set_aside(d, &mut base, root, own_series.as_ref());
    let provided = provider::provided(d, &base, own_series.as_ref());
    let below = provided.as_ref();
    // An unknown provider is one problem, not also one for each missing default.
    let unknown = base.provider.as_ref().filter(|_| below.is_none());
    let unknown = unknown.or_else(|| f.excuses("yocto_series").then_some(&name));
    let stand_in = unknown.map(|text| Text { span: text.span.clone(), text: String::new() });
    let yocto_series = own_series.or_else(|| below?.version.series.clone()).or_else(|| stand_in.clone());
    let mut features = f.fields(d, "features");
    let mut build_fields = f.fields(d, "build");
    let mut image_features = split(build_fields.texts(d, "extra_image_features"));
    image_features.extend(features.texts(d, "extra_image_features"));
    let (build, is_told_of_build) =
        build(d, build_fields, below.map(|below| &below.provider.image).or(stand_in.as_ref()));
    if base.machine.is_none() && build.machine.is_none() && !(is_told || is_told_of_build) {
        let problem = Problem::new(0..0, "no machine: base.machine and build.machine are both missing");
        d.problem(match below.map(|below| &below.provider) {
            Some(provider) => problem.hint(format!("such as {}", join(&provider.machines))),
            None => problem,
        });
    }
    let mut packages = f.fields(d, "packages");
    let named = root.get("layers").map_or(0, |node| if let Value::List(items) = &node.value { items.len() } else { 1 });
    let has_machine = base.machine.is_some() || build.machine.is_some();
    let whole = has_machine && !build.image.is_empty() && stand_in.is_none() && !f.excuses("layers");
    let layers = layers(d, &mut f, yocto_series.as_ref());
    let known = series::of(yocto_series.as_ref(), &layers);
    let mut config = Config {
        name,
        description: f.text(d, "description"),
        base,
        layers,
        bitbake: bitbake(d, &mut f),
        yocto_series,
        build,
        directories: directories(d, &mut f),
        host: host(d, &mut f, known),
        package_classes: packages.texts(d, "classes"),
        image_features,
        user_classes: features.texts(d, "user_classes"),
        inherit_classes: features.texts(d, "inherit_classes"),
        advanced: advanced(d, &mut f),
        recovery: recovery(d, &mut f),
        artifacts: artifacts(d, &mut f),
        local_conf: local_conf(d, f.node(LOCAL_CONF)),
        env: f.fields(d, "env").into_pairs(d),
        variants: overlays(d, f.node("variants")),
        cache: cache(d, &mut f),
        as_is: as_is(d, &mut f),
        of_go: d.of_go,
        warnings: Vec::new(),
        variables: Vec::new(),
        provided: provided.clone(),
        whole,
    };
    config.whole &= config.layers.len() == named;
    for (name, value) in config.as_is.iter().flat_map(|as_is| &as_is.env) {
        config.host.env.push(name.clone());
        config.env.extend(value.clone().map(|value| (name.clone(), value)));
    }
    if let Some(provided) = provided {
        provided.lie_under(&mut config);
    }
    check_names(d, &config.layers, config.bitbake.as_ref());
    packages.finish(d);
    features.finish(d);
    f.finish(d);
    for (name, value) in &config.env {
        if let Some(why) = refused_value(value) {
            d.problem(Problem::new(value.span.clone(), format!("env.{name}: {why}")));
        }
    }
    for (name, _) in &config.env {
        let valid = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
            d.problem(Problem::new(name.span.clone(), format!("env: `{name}` cannot name a variable")));
        }
    }
    config
}

/// Why a value cannot be one of BitBake's environment, if so. bb.data.emit_var writes it between double quotes into the scripts of shell tasks, and
/// leaves backslashes as they are.
fn refused_value(value: &str) -> Option<&'static str> {
    let before_special =
        value.split('\\').skip(1).any(|after| after.is_empty() || after.starts_with(['"', '$', '`', '\n']));
    match value.contains('\0') {
        true => Some("no variable can hold the character U+0000"),
        false if before_special => Some(
            "BitBake's shell tasks cannot have a backslash at the end, or before a backslash, quote, dollar, backtick or line break",
        ),
        false => None,
    }
}

/// Also says whether a problem about the machine was told.
fn base(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> (Base, bool) {
    let mut f = f.fields(d, "base");
    let (machine, is_told) = machine(d, &mut f);
    let base = Base {
        provider: f.text(d, "provider"),
        machine,
        distro: f.text(d, "distro").and_then(|text| word(d, text, "base.distro")),
        version: f.text(d, "version"),
    };
    let is_told = is_told || f.excuses("machine");
    f.finish(d);
    (base, is_told)
}

fn machine(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> (Option<Text>, bool) {
    let (before, path) = (d.problems.len(), f.path("machine"));
    let machine = f.text(d, "machine").and_then(|text| word(d, text, &path));
    (machine, d.problems.len() > before)
}

// `usual` is the provider's image.
fn build(d: &mut Decoder<'_>, mut f: Fields<'_>, usual: Option<&Text>) -> (Build, bool) {
    let (machine, is_told) = machine(d, &mut f);
    let targets = words(d, &mut f, "targets");
    let build = Build {
        image: match usual.or(targets.first()) {
            Some(usual) => f.text(d, "image").unwrap_or_else(|| usual.clone()),
            None => f.required(d, "image"),
        },
        targets,
        task: f.text(d, "task").and_then(|text| word(d, text, "build.task")),
        machine,
        threads: f.count(d, "bb_number_threads"),
        parallel_make: jobs(d, &mut f),
        extra_packages: words(d, &mut f, "extra_packages"),
    };
    if !build.image.is_empty() {
        word(d, build.image.clone(), "build.image");
    }
    let is_told = is_told || f.excuses("machine");
    f.finish(d);
    (build, is_told)
}

/// A number, also where it is written as make has it: `-j8`.
fn jobs(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Option<u32> {
    let mut text = f.text(d, "parallel_make")?;
    if let Some(number) = text.text.strip_prefix("-j") {
        text.text = number.trim_start().to_owned();
    }
    d.parse::<std::num::NonZeroU32>(text, "build.parallel_make", "a whole number above 0").map(Into::into)
}

fn directories(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Directories {
    let mut f = f.fields(d, "directories");
    let source = f.text(d, "source");
    if let Some(source) = &source {
        let title = "`directories.source` is read as `directories.downloads`, where that is missing";
        d.warnings.push(Problem::new(source.span.clone(), title));
    }
    let directories = Directories {
        layers: f.text(d, "layers"),
        downloads: f.text(d, "downloads").or(source),
        sstate: f.text(d, "sstate"),
        tmp: f.text(d, "tmp"),
        deploy: f.text(d, "deploy"),
        build: f.text(d, "build"),
    };
    f.finish(d);
    directories
}

/// A list of words, or one truth value for all.
fn recovery(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Recovery> {
    let Some(node) = f.node("recovery") else { return Recovery::ALL.to_vec() };
    let texts = d.texts(node, "recovery");
    if let [one] = texts.as_slice()
        && let Some(all) = truth(&one.text)
    {
        return if all { Recovery::ALL.to_vec() } else { Vec::new() };
    }
    let words = Recovery::ALL.map(|one| one.to_string()).join(", ");
    let expected = format!("true, false or a list of {words}");
    texts.into_iter().filter_map(|text| d.parse(text, "recovery", &expected)).collect()
}

fn advanced(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Advanced {
    let mut f = f.fields(d, "advanced");
    let build_timeout = f.text(d, "build_timeout").and_then(|text| {
        d.parse::<Minutes>(
            text,
            "advanced.build_timeout",
            "a time such as 90m or 2h30m (a plain number counts minutes)",
        )
    });
    let advanced = Advanced {
        sstate_mirrors: f.texts(d, "sstate_mirrors"),
        premirrors: f.texts(d, "premirrors"),
        no_network: f.flag(d, "bb_no_network"),
        premirror_only: f.flag(d, "bb_fetch_premirroronly"),
        accept_fsl_eula: f.flag(d, "accept_fsl_eula"),
        build_timeout: build_timeout.map(|minutes| minutes.0),
        hashserve: f.text(d, "bb_hashserve"),
        signature_handler: f.text(d, "bb_signature_handler"),
        license_flags: words(d, &mut f, "license_flags"),
        disk_monitoring: f.text(d, "disk_monitoring"),
    };
    f.finish(d);
    advanced
}

/// Braces of one pattern: globset calls itself for each that is inside another, and a stack has an end.
const MOST_BRACES: usize = 64;

fn artifacts(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Text> {
    let mut patterns = f.texts(d, "artifacts");
    // They were never read there: names of files, wherever these are.
    for pattern in patterns.iter_mut().filter(|pattern| d.of_go && !pattern.contains('/')) {
        pattern.text = format!("**/{}", pattern.text);
    }
    for pattern in &patterns {
        let leaves = pattern.split('/').any(|part| part == "..");
        if pattern.starts_with('/') || leaves {
            let title = format!("artifacts: `{pattern}` must stay inside the build's deploy folder");
            d.problem(
                Problem::new(pattern.span.clone(), title)
                    .hint("patterns are relative to deploy/, such as images/*/*.wic"),
            );
        } else if pattern.matches('{').count() > MOST_BRACES {
            let title = format!("artifacts: a pattern has at most {MOST_BRACES} `{{`");
            d.problem(Problem::new(pattern.span.clone(), title).hint("write several patterns"));
        } else if let Err(error) = globset::Glob::new(pattern) {
            d.problem(Problem::new(pattern.span.clone(), format!("artifacts: {error}")));
        }
    }
    patterns
}

// `${…}` are BitBake's own variables here, so nothing is substituted.
fn local_conf(d: &mut Decoder<'_>, node: Option<&Node>) -> String {
    let lines = |node: &Node| match &node.value {
        Value::Scalar(text) => Some(text.trim_end().to_owned()),
        Value::Null => Some(String::new()),
        _ => None,
    };
    match node {
        None => String::new(),
        Some(Node { value: Value::List(items), .. }) => {
            items.iter().filter_map(lines).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        Some(node) => lines(node).unwrap_or_else(|| {
            d.problem(Problem::new(node.span.clone(), "local_conf must be text, or a list of lines"));
            String::new()
        }),
    }
}

// Overlays that are not selected are checked too, as far as possible without the rest: they must be mappings.
fn overlays(d: &mut Decoder<'_>, node: Option<&Node>) -> Vec<Text> {
    let Some(Node { value: Value::Map(entries), .. }) = node else {
        if let Some(node) = node.filter(|node| !matches!(node.value, Value::Null)) {
            d.problem(Problem::new(node.span.clone(), "variants must be a mapping of names to overlays"));
        }
        return Vec::new();
    };
    for (name, over) in entries {
        if !BuildId::is_valid_name(name) {
            d.problem(Problem::new(name.span.clone(), format!("`{name}` cannot name a variant")));
        }
        if !matches!(over.value, Value::Map(_)) {
            d.problem(Problem::new(over.span.clone(), format!("variants.{name} must be a mapping")));
        }
    }
    entries.iter().map(|(name, _)| name.clone()).collect()
}

/// A value that becomes one word of a conf file or command line.
fn word(d: &mut Decoder<'_>, text: Text, path: &str) -> Option<Text> {
    let fits = !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\' | '$' | '`'));
    if !fits {
        let title = format!("{path}: `{}` is not one plain word", text.text);
        d.problem(
            Problem::new(text.span.clone(), title).hint("spaces, quotes, `$` and a leading dash are not possible here"),
        );
    }
    fits.then_some(text)
}

fn join(texts: &[Text]) -> String {
    texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(", ")
}

/// A single text has words of its own.
fn split(texts: Vec<Text>) -> Vec<Text> {
    match texts.as_slice() {
        [Text { span, text }] => {
            text.split_whitespace().map(|word| Text { span: span.clone(), text: word.into() }).collect()
        }
        _ => texts,
    }
}

fn words(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Vec<Text> {
    let path = f.path(key);
    split(f.texts(d, key)).into_iter().filter_map(|text| word(d, text, &path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
name: my-image
base: {machine: qemux86-64, distro: poky}
layers:
  - name: meta-own
    path: ./layers/meta-own
build:
  image: core-image-minimal
  bb_number_threads: 8
variants:
  dev:
    build: {image: dev-image}
local_conf: |
  FOO = \"${TOPDIR}/x\"
";

    fn problems(text: &str) -> String {
        match read("smidr.yaml", text, None, &|_| None) {
            Ok(_) => panic!("no problem was found"),
            Err(problems) => problems.render(false),
        }
    }

    #[test]
    fn a_good_config_and_its_variant() {
        let config = read("smidr.yaml", GOOD, None, &|_| None).expect("good");
        assert_eq!(config.build.image.text, "core-image-minimal");
        assert_eq!(config.local_conf, "FOO = \"${TOPDIR}/x\"");
        let dev = read("smidr.yaml", GOOD, Some("dev"), &|_| None).expect("good");
        assert_eq!((dev.build.image.text.as_str(), dev.build.threads), ("dev-image", Some(8)));
        assert!(read("smidr.yaml", GOOD, Some("deb"), &|_| None).is_err());
    }

    #[test]
    fn local_conf_of_a_variant_comes_after_that_of_the_project() {
        for (own, over, expected) in [
            ("A = 1", "B = 2", "A = 1\nB = 2"),
            ("[A = 1, B = 2]", "[C = 3]", "A = 1\nB = 2\nC = 3"),
            ("|\n  A = 1\n  B = 2\n", "[C = 3, D = 4]", "A = 1\n  B = 2\nC = 3\nD = 4"),
            ("", "B = 2", "B = 2"),
            ("A = 1", "", "A = 1"),
        ] {
            let text = format!(
                "name: x\nbase: {{machine: m}}\nbuild: {{image: i}}\nlocal_conf: {own}\nvariants:\n  v:\n    local_conf: {over}\n"
            );
            let config = read("smidr.yaml", &text, Some("v"), &|_| None).expect(&text);
            assert_eq!(config.local_conf.replace("\n  ", "\n"), expected.replace("\n  ", "\n"), "{text}");
            let without = read("smidr.yaml", &text, None, &|_| None).expect(&text);
            assert!(!without.local_conf.contains('C') && !without.local_conf.contains("B = 2\nB"), "{text}");
        }
        // One that says nothing of it leaves the project's.
        let text = "name: x\nbase: {machine: m}\nbuild: {image: i}\nlocal_conf: A = 1\nvariants: {v: {}}\n";
        assert_eq!(read("smidr.yaml", text, Some("v"), &|_| None).expect("good").local_conf, "A = 1");
    }

    #[test]
    fn every_problem_at_once() {
        insta::assert_snapshot!(problems(
            "\
nmae: x
base:
  machine: [a, b]
layers:
  - name: a
    gti: https://example.org/a
  - name: a
    path: ./x
    branch: main
build:
  image: core image
  bb_number_threads: none
host:
  recipe: debian-12
  image: docker.io/debian
  network: half
artifacts:
  - ../../etc/passwd
env:
  A-B: x
advanced:
  build_timeout: soon
directories:
  downloads: ${NOWHERE}/dl
"
        ));
    }

    #[test]
    fn what_is_not_yaml() {
        insta::assert_snapshot!(problems("name: x\n\tbuild: y\n"));
    }

    #[test]
    fn a_pattern_of_many_braces_is_a_problem() {
        for braces in [65, 300_000] {
            let pattern = "{a,".repeat(braces) + &"}".repeat(braces);
            let shown = problems(&format!("{GOOD}artifacts: ['{pattern}']\n"));
            assert!(shown.contains("artifacts: a pattern has at most 64 `{`"), "{}", shown.len());
        }
        let bearable = "{a,b}".repeat(64);
        assert!(read("smidr.yaml", &format!("{GOOD}artifacts: ['{bearable}']\n"), None, &|_| None).is_ok());
    }

    proptest::proptest! {
        // Any text as a config is answered, and every problem can be drawn.
        #[test]
        fn any_text_is_answered(text in "[ \\-\\[\\]{}:,&*!|>'\"%@`#?a-z0-9\n\r\tä€𝄞\u{feff}\u{85}\u{2028}]{0,80}") {
            if let Err(problems) = read("smidr.yaml", &text, None, &|_| None) {
                proptest::prop_assert!(!problems.render(false).is_empty());
            }
        }

        // One character of a good config replaced, anywhere.
        #[test]
        fn any_typo_is_answered(at in 0..GOOD.len(), typo in proptest::char::any()) {
            let mut text = GOOD.to_owned();
            text.replace_range(at..=at, &typo.to_string());
            if let Err(problems) = read("smidr.yaml", &text, Some("dev"), &|_| None) {
                proptest::prop_assert!(!problems.render(false).is_empty());
            }
        }
    }
}
