//! Every data file is well-formed, and lies under a config as it should.

use super::*;
use crate::config::read;

/// Everything that is wrong with a data file.
fn faults(name: &str, text: &str) -> Vec<String> {
    let root = match Node::parse(text) {
        Ok(root) => root,
        Err(problem) => return vec![problem.title],
    };
    let mut d = Decoder::new(&|_| None);
    let provider = file::read(&mut d, name, &root);
    let mut faults: Vec<String> = d.problems.into_iter().map(|problem| problem.title).collect();
    let mut expect = |holds: bool, what: String| faults.extend((!holds).then_some(what));
    let exact = provider.versions.iter().any(|version| version.name.text == provider.default.text);
    expect(exact, "the default is not a version".into());
    expect(!provider.machines.is_empty(), "no machine".into());
    expect(provider.also.iter().all(|word| find(word).is_none()), "another word for it is a provider".into());
    let number = |version: &ProviderVersion| -> Vec<Option<u32>> {
        version.name.split('.').map(|part| part.parse().ok()).collect()
    };
    let sorted = provider.versions.windows(2).all(|two| number(&two[0]) < number(&two[1]));
    expect(sorted, "the versions are not sorted, oldest first".into());
    for source in provider.eula.iter().map(|eula| &eula.source) {
        expect(source.starts_with("https://"), format!("{source} is not an address"));
    }
    for version in &provider.versions {
        let name = &version.name;
        expect(number(version).iter().all(Option::is_some), format!("{name} is not a version"));
        expect(!version.sources.is_empty(), format!("{name} has no source"));
        let addresses = version.sources.iter().all(|source| source.starts_with("https://"));
        expect(addresses, format!("a source of {name} is not an address"));
        expect(version.series.is_some() && version.distro.is_some(), format!("{name} has no series or distro"));
        expect(!version.layers.is_empty(), format!("{name} has no layers"));
        let followed = |source: &Source| match source {
            Source::Git(git) => git.url.starts_with("https://") && git.branch.is_some() && git.commit.is_none(),
            Source::Path(_) => false,
        };
        let sources = version.layers.iter().map(|layer| &layer.source).chain(&version.bitbake);
        expect(sources.clone().all(followed), format!("{name} has a source that is not a branch over https"));
        let carried = version.layers.iter().filter(|layer| layer.name.text == "poky").count();
        let own = usize::from(version.bitbake.is_some());
        expect(carried + own == 1, format!("{name} has BitBake {} times", carried + own));
    }
    faults
}

#[test]
fn every_data_file_is_well_formed() {
    let expected = ["intel", "nvidia", "nxp", "poky", "qualcomm", "raspberrypi", "ti", "toradex"];
    assert_eq!(names(), expected);
    for file in FILES.files() {
        let name = file.path().file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert_eq!(file.path().to_str(), Some(format!("{name}.yaml").as_str()));
        assert_eq!(Some(about(name).into()), find(name).map(|known| known.about.text), "{name}");
        assert_eq!(faults(name, file.contents_utf8().expect("text")), Vec::<String>::new(), "{name}");
    }
    // `init` writes a template of this name by itself.
    assert!(find("hello").is_none());
}

/// A checker that finds nothing anywhere proves nothing.
#[test]
fn the_checker_can_fail() {
    let good = FILES.get_file("poky.yaml").and_then(|file| file.contents_utf8()).expect("poky");
    let rows = [
        ("about:", "abuot:", "unknown key `abuot`"),
        ("also:", "image_: 1\nalso:", "unknown key `image_`"),
        ("    series: kirkstone", "    seires: kirkstone", "unknown key `versions.seires`"),
        ("default: \"5.0\"", "default: \"5\"", "the default is not a version"),
        ("machines: [", "machines: []\nnotes2: [", "no machine"),
        ("  \"4.0\":", "  \"5.1\":", "not sorted"),
        ("  \"4.0\":", "  kirkstone:", "kirkstone is not a version"),
        ("    verified:", "    verified: soon", "must be a day"),
        ("        branch: kirkstone", "        branch: -x", "cannot be the name of a branch"),
        ("git: https://git.yoctoproject.org/poky", "git: /srv/poky", "is a folder, not an address"),
        ("git: https://git.yoctoproject.org/poky", "git: git://git.yoctoproject.org/poky", "not a branch over https"),
        ("        branch: kirkstone", "        tag: v1", "not a branch over https"),
        ("      branch: \"2.16\"", "      patches: [a]", "names no branch"),
        ("      - name: poky", "      - name: oe", "4.0 has BitBake 0 times"),
    ];
    for (old, new, expected) in rows {
        assert!(good.contains(old), "{old}");
        let found = faults("poky", &good.replacen(old, new, 1));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{new}: `{expected}` is not in {found:?}");
    }
}

fn config(text: &str) -> Config {
    match read("smidr.yaml", text, None, &|_| None) {
        Ok(config) => config,
        Err(problems) => panic!("{}", problems.render(false)),
    }
}

/// Each layer's name, and its branch or path.
fn layers_of(config: &Config) -> Vec<(&str, &str)> {
    fn place(layer: &Layer) -> &str {
        match &layer.source {
            Source::Git(git) => git.branch.as_deref().unwrap_or_default(),
            Source::Path(path) => path,
        }
    }
    config.layers.iter().map(|layer| (&*layer.name, place(layer))).collect()
}

#[test]
fn it_lies_under_the_config() {
    let bare = config("name: x\nbase: {provider: poky, machine: qemuarm64}\n");
    assert_eq!(layers_of(&bare), [("poky", "scarthgap")]);
    assert_eq!(bare.build.image.text, "core-image-minimal");
    assert_eq!(bare.base.distro.as_deref(), Some("poky"));
    assert_eq!(bare.yocto_series.as_deref(), Some("scarthgap"));
    assert_eq!(bare.provided.as_ref().map(|below| &below.choice), Some(&Choice::Default));
    // The config's own layers stay, in place or at the end; the default branch is the series.
    let full = config(
        "name: x\nbase: {provider: poky, version: '6.0', machine: m, distro: mine}\nbuild: {image: i}\n\
         bitbake: {path: ./bb}\nlayers:\n  - {name: mine, git: 'https://h/mine'}\n  - {name: openembedded-core, path: ./oe}\n",
    );
    assert_eq!(layers_of(&full), [("openembedded-core", "./oe"), ("meta-yocto", "wrynose"), ("mine", "wrynose")]);
    assert!(full.layers[0].include.is_empty(), "replaced whole");
    assert!(matches!(&full.bitbake, Some(Source::Path(path)) if path.text == "./bb"));
    assert_eq!((full.base.distro.as_deref(), full.build.image.text.as_str()), (Some("mine"), "i"));
    let none = config("name: x\nbase: {machine: m}\nbuild: {image: i}\n");
    assert!(none.provided.is_none() && none.layers.is_empty());
}

#[test]
fn which_version() {
    let version = |base: &str, more: &str| {
        let config = config(&format!("name: x\nbase: {{machine: m, {base}}}\n{more}"));
        config.provided.map(|below| (below.version.name.text, below.choice)).expect("a provider")
    };
    let named = |name: &str| Choice::Version(name.into());
    assert_eq!(version("provider: poky", ""), ("5.0".into(), Choice::Default));
    assert_eq!(version("provider: poky", "yocto_series: wrynose"), ("6.0".into(), Choice::Series));
    assert_eq!(version("provider: poky, version: 4.0", "yocto_series: x"), ("4.0".into(), named("4.0")));
    assert_eq!(version("provider: poky, version: 5.0.3", ""), ("5.0".into(), named("5.0.3")));
    assert_eq!(version("provider: toradex, version: \"6.0.0\"", ""), ("6".into(), named("6.0.0")));
}

#[test]
fn what_cannot_be() {
    let rows = [
        ("base: {machine: m, provider: toradx}", "toradx", "did you mean `toradex`? known: intel, "),
        ("base: {machine: m, provider: Tegra}", "Tegra", "did you mean `nvidia`?"),
        ("base: {machine: m, provider: gentoo}\nlayers: [{name: a, git: 'h:a'}]", "gentoo", "known: intel, nvidia"),
        ("base: {machine: m, provider: ../poky}", "../poky", "known: "),
        ("base: {machine: m, provider: poky, version: 5.9}", "5.9", "did you mean \"5.0\"? known: 4.0, 5.0"),
        ("base: {machine: m, provider: toradex, version: '60'}", "'60'", "known: 6"),
        ("base: {machine: m, version: '6'}\nbuild: {image: i}", "'6'", "providers: intel, "),
        ("yocto_series: dunfell\nbase: {machine: m, provider: poky}", "dunfell", "known: 4.0, "),
        ("base: {provider: ti}", "", "such as am62xx-evm, "),
    ];
    for (text, place, hint) in rows {
        // What a provider would have brought is not missed as well.
        let text = format!("{text}\nname: x\n");
        let problems = read("smidr.yaml", &text, None, &|_| None).expect_err(&text);
        let [problem] = problems.list.as_slice() else { panic!("{text}: {:?}", problems.list) };
        assert_eq!(text.get(problem.span.clone()), Some(place), "{problem:?}");
        assert!(problem.hint.as_ref().is_some_and(|found| found.contains(hint)), "{problem:?}");
    }
}
