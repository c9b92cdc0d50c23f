//! Yocto series, from `series.toml`: the build host of a config that names none, and warnings where parts of a config are of different series.
//! Only what the config's own words say: nothing is fetched, and a layer may fit a series that its branch is not called after.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use super::{
    node::{Span, Text},
    problem::Problem,
    schema::{Config, GitSource, HostImage, Layer, Source},
};

static KNOWN: LazyLock<Known> =
    LazyLock::new(|| toml::from_str(include_str!("series.toml")).expect("a file of our own that a test reads"));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    series: Vec<Series>,
}

/// A Yocto series.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    name: String,
    /// BitBake's branch.
    bitbake: String,
    /// The rootfs recipe of its usual build host.
    pub host: String,
    /// The Debian and Ubuntu releases that its BitBake was validated on from its first year on.
    hosts: Vec<String>,
    /// Those that were added late, with the day.
    #[serde(default)]
    late: BTreeMap<String, String>,
}

impl Series {
    /// The series of that name.
    pub fn called(name: &str) -> Option<&'static Self> {
        KNOWN.series.iter().find(|series| series.name == name)
    }

    /// The series that a branch is called after, as `kirkstone` or `scarthgap-6.6.y`.
    fn of_branch(branch: &str) -> Option<&'static Self> {
        branch.split(['-', '/', '_']).find_map(Self::called)
    }
}

/// The series of a project: its own, or that of its first layer whose branch is called after one. Moving branches are of none.
pub(super) fn of(series: Option<&Text>, layers: &[Layer]) -> Option<&'static Series> {
    match series {
        Some(series) => Series::of_branch(series),
        None => layers.iter().filter_map(branch_of).find_map(|branch| Series::of_branch(branch)),
    }
}

fn branch_of(layer: &Layer) -> Option<&Text> {
    match &layer.source {
        Source::Git(git) => git.branch.as_ref(),
        Source::Path(_) => None,
    }
}

/// The build hosts that the project's series was validated on from its first year on, if it names a series.
pub fn hosts(config: &Config) -> &'static [String] {
    of(config.yocto_series.as_ref(), &config.layers).map_or(&[], |series| &series.hosts)
}

/// What does not seem to fit together.
pub(super) fn warnings(config: &Config) -> Vec<Problem> {
    let Some(series) = of(config.yocto_series.as_ref(), &config.layers) else { return Vec::new() };
    // What a provider brings was put together by its vendor.
    let provider = config.base.provider.as_ref().map(|text| &text.span);
    let is_own = |span: &Span| provider != Some(span);
    let layers = config.layers.iter().filter(|layer| !layer.ignore_series && is_own(&layer.name.span));
    let mut warnings: Vec<Problem> = layers.filter_map(|layer| of_layer(series, layer)).collect();
    if let Some(Source::Git(GitSource { branch: Some(branch), .. })) = &config.bitbake
        && is_own(&branch.span)
    {
        warnings.extend(of_bitbake(series, branch));
    }
    if let HostImage::Recipe(recipe) = &config.host.image {
        warnings.extend(of_host(series, recipe));
    }
    warnings
}

fn of_layer(series: &Series, layer: &Layer) -> Option<Problem> {
    let branch = branch_of(layer)?;
    let other = Series::of_branch(branch).filter(|other| other.name != series.name)?;
    let title = format!("the layer `{}` is of {}, and the project of {}", layer.name, other.name, series.name);
    let hint = format!(
        "take its branch for {}, or write `ignore_series: true` beside it if it works all the same",
        series.name
    );
    Some(Problem::new(branch.span.clone(), title).hint(hint))
}

fn of_bitbake(series: &Series, branch: &Text) -> Option<Problem> {
    let other = KNOWN.series.iter().find(|other| other.bitbake == branch.text && other.name != series.name)?;
    let title = format!("BitBake {branch} belongs with {}, and the project is of {}", other.name, series.name);
    Some(Problem::new(branch.span.clone(), title).hint(format!("branch: \"{}\"", series.bitbake)))
}

fn of_host(series: &Series, recipe: &Text) -> Option<Problem> {
    let knows = |series: &Series| series.hosts.contains(&recipe.text) || series.late.contains_key(&recipe.text);
    // A recipe of the user's own is not judged.
    if series.hosts.contains(&recipe.text) || !KNOWN.series.iter().any(knows) {
        return None;
    }
    let name = &series.name;
    let title = match series.late.get(&recipe.text) {
        Some(day) => format!("BitBake of {name} was not validated on `{recipe}` before {day}"),
        None => format!("BitBake of {name} was not validated on `{recipe}`"),
    };
    let hint = format!("it was on {}; without `host.recipe` smidr takes {}", series.hosts.join(", "), series.host);
    Some(Problem::new(recipe.span.clone(), title).hint(hint))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read;

    #[test]
    fn the_file_is_sound() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs-recipes");
        for series in &KNOWN.series {
            assert!(series.hosts.contains(&series.host), "{}", series.name);
            assert!(recipes.join(format!("{}.yaml", series.host)).is_file(), "{}", series.name);
            assert!(!series.late.keys().any(|late| series.hosts.contains(late)), "{}", series.name);
        }
    }

    fn config(text: &str) -> Config {
        let text = format!("name: x\nbuild: {{image: i}}\n{text}");
        read("smidr.yaml", &text, None, &|_| None).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
    }

    fn recipe(config: &Config) -> &str {
        match &config.host.image {
            HostImage::Recipe(name) | HostImage::Image(name) => name,
        }
    }

    #[test]
    fn the_build_host_is_of_the_series() {
        let layer = |branch: &str| {
            format!("base: {{machine: m}}\nlayers: [{{name: l, git: 'https://h/l', branch: {branch}}}]\n")
        };
        for (text, host) in [
            (layer("kirkstone"), "debian-11"),
            (layer("kirkstone-5.15.y"), "debian-11"),
            (layer("master"), "debian-12"),
            (format!("{}yocto_series: wrynose\n", layer("main")), "debian-13"),
            ("base: {provider: poky, version: '4.0', machine: m}\n".into(), "debian-11"),
            ("base: {provider: poky, version: '5.0', machine: m}\n".into(), "debian-12"),
            (format!("{}host: {{recipe: debian-12}}\n", layer("kirkstone")), "debian-12"),
        ] {
            assert_eq!(recipe(&config(&text)), host, "{text}");
        }
        // No provider's own data is a reason to warn.
        for name in crate::config::provider::names() {
            let provider = crate::config::provider::find(name).expect("known");
            for version in &provider.versions {
                let config = config(&format!("base: {{provider: {name}, version: '{}', machine: m}}\n", version.name));
                assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
            }
        }
    }

    #[test]
    fn what_is_of_two_series() {
        let base = "base: {machine: m}\n";
        let of = |more: &str| -> Vec<(String, String)> {
            let text = format!("{base}layers:\n- {{name: one, git: 'https://h/1', branch: scarthgap}}\n{more}");
            let whole = format!("name: x\nbuild: {{image: i}}\n{text}");
            let marked = |problem: &Problem| whole.get(problem.span.clone()).unwrap_or_default().to_owned();
            config(&text).warnings.iter().map(|problem| (problem.title.clone(), marked(problem))).collect()
        };
        let two = "- {name: two, git: 'https://h/2', branch: kirkstone}\n";
        let expected = |title: &str, marked: &str| vec![(title.to_owned(), marked.to_owned())];
        assert_eq!(of(""), []);
        assert_eq!(of(two), expected("the layer `two` is of kirkstone, and the project of scarthgap", "kirkstone"));
        assert_eq!(of(&two.replace("kirkstone", "kirkstone, ignore_series: true")), []);
        assert_eq!(of(&two.replace("kirkstone", "scarthgap-next")), []);
        assert_eq!(of(&two.replace("kirkstone", "master")), []);
        assert_eq!(
            of("yocto_series: wrynose\n"),
            expected("the layer `one` is of scarthgap, and the project of wrynose", "scarthgap")
        );
        assert_eq!(
            of("bitbake: {git: 'https://h/b', branch: '2.0'}\n"),
            expected("BitBake 2.0 belongs with kirkstone, and the project is of scarthgap", "'2.0'")
        );
        assert_eq!(
            of("host: {recipe: debian-13}\n"),
            expected("BitBake of scarthgap was not validated on `debian-13`", "debian-13")
        );
        assert_eq!(
            of("host: {recipe: ubuntu-24.04}\n"),
            expected("BitBake of scarthgap was not validated on `ubuntu-24.04` before 2025-03-07", "ubuntu-24.04")
        );
        assert_eq!(of("host: {recipe: ./mine.yaml}\n"), []);
        let text =
            "name: x\nbuild: {image: i}\nyocto_series: scarthgap\nbase: {provider: poky, version: '4.0', machine: m}\n";
        let problems = read("smidr.yaml", text, None, &|_| None).expect_err("two series");
        let drawn = problems.render(false);
        assert!(drawn.contains("yocto_series is scarthgap, but poky 4.0 is of kirkstone"), "{drawn}");
    }
}
