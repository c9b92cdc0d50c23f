//! Sets of layers as users have them, and what is said of those that do not work.

use std::{
    fs::{create_dir_all, write},
    path::Path,
};

use super::*;
use crate::model::{Kind, UserError as _};

const CORE: &str = "BBPATH .= \":${LAYERDIR}\"\nBBFILE_COLLECTIONS += \"core\"\nBBFILE_PATTERN_core = \"^${LAYERDIR}/\"\nBBFILE_PRIORITY_core = \"5\"\nLAYERVERSION_core = \"15\"\nLAYERSERIES_CORENAMES = \"scarthgap\"\nLAYERSERIES_COMPAT_core = \"scarthgap\"\n";

/// A layer called `mine`.
fn mine(more: &str) -> String {
    format!(
        "BBPATH .= \":${{LAYERDIR}}\"\nBBFILE_COLLECTIONS += \"mine\"\nBBFILE_PATTERN_mine = \"\"\nLAYERSERIES_COMPAT_mine = \"kirkstone scarthgap\"\n{more}\n"
    )
}

/// Writes files, and gives the layers among them: `repository/layer`, or `repository` alone. `+` at the end: chosen.
fn layers(yard: &Path, confs: &[(&str, &str)]) -> Vec<Found> {
    let one = |(place, conf): &(&str, &str)| {
        let (path, chosen) = place.strip_suffix('+').map_or((*place, false), |path| (path, true));
        let repository = path.split('/').next().unwrap_or(path);
        create_dir_all(yard.join(path).join("conf/machine")).expect("folders");
        write(yard.join(path).join("conf/layer.conf"), conf).expect("a file");
        let (folder, root) = (yard.join(path), yard.join(repository));
        Found { folder, root, repository: repository.into(), ignore_series: false, chosen }
    };
    confs.iter().map(one).collect()
}

fn yard() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn checked(confs: &[(&str, &str)], series: Option<&str>) -> Result<Checked, CollectionError> {
    let yard = yard();
    check(&layers(yard.path(), confs), "qemux86-64", series, "")
}

/// The error, with temporary folders cut out, and its hint.
fn refused(confs: &[(&str, &str)], series: Option<&str>) -> String {
    let yard = yard();
    let error = check(&layers(yard.path(), confs), "qemux86-64", series, "").expect_err("an error");
    assert_eq!(error.kind(), Kind::Request, "{error}");
    let text = format!("{error}\n{}", error.hint().expect("a hint"));
    text.replace(&format!("{}/", yard.path().display()), "")
}

#[test]
fn layers_that_fit_are_described() {
    let more = "LAYERDEPENDS_mine = \"core (>= 12)\"\nLAYERVERSION_mine = \"2\"\nBBFILE_PRIORITY_mine = \"7\"";
    let all = checked(&[("core/meta", CORE), ("mine", &mine(more)), ("bare", "A = \"b\"\n")], Some("scarthgap"))
        .expect("layers");
    assert_eq!((all.series, all.bblayers), (vec!["scarthgap".to_owned()], vec![]));
    assert_eq!(all.warnings, ["no layer was found to have the machine `qemux86-64`"]);
    let [core, mine, bare] = &all.layers[..] else { panic!("{:?}", all.layers) };
    assert_eq!((core.collection.as_deref(), core.priority), (Some("core"), Some(5)));
    assert_eq!(
        (mine.collection.as_deref(), mine.priority, mine.version.as_deref()),
        (Some("mine"), Some(7), Some("2"))
    );
    assert_eq!(
        (&mine.depends, &mine.series),
        (&vec!["core".to_owned()], &vec!["kirkstone".to_owned(), "scarthgap".into()])
    );
    assert_eq!((bare.collection.as_deref(), bare.priority), (None, None));
}

#[test]
fn the_layer_of_the_hello_project_needs_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/templates/hello/layers/meta-hello");
    let hello =
        Found { folder: root.clone(), root, repository: "meta-hello".into(), ignore_series: false, chosen: true };
    let all = check(std::slice::from_ref(&hello), "hello-x86-64", None, "").expect("a layer");
    assert_eq!((all.series, all.warnings), (vec!["hello".to_owned()], vec![]));
    let wrong = check(&[hello], "hello-x86_64", None, "").expect_err("a wrong machine");
    assert_eq!(wrong.hint().as_deref(), Some("did you mean `hello-x86-64`? the layers have one machine: hello-x86-64"));
}

#[test]
fn what_does_not_fit_is_refused_with_what_would_do() {
    let other = mine("").replace("kirkstone scarthgap", "kirkstone");
    let needs = |what: &str| mine(&format!("LAYERDEPENDS_mine = \"{what}\""));
    let unused = "BBFILE_COLLECTIONS += \"unused-layer\"\n";
    for (confs, series, expected) in [
        (
            vec![("core/meta", CORE.to_owned()), ("core/meta-two", CORE.to_owned())],
            None,
            vec![
                "two layers call themselves `core`: one of `core` (core/meta) and one of `core` (core/meta-two)\n",
                "leave one of them out",
            ],
        ),
        (
            vec![("core/meta", CORE.to_owned()), ("mine", other.clone())],
            None,
            vec![
                "the layer `mine` (mine) works with kirkstone; the core layer is of scarthgap\n",
                "layers:\n  - name: mine\n    ignore_series: true",
            ],
        ),
        (
            vec![("core/meta", CORE.to_owned())],
            Some("kirkstone"),
            vec![
                "yocto_series is kirkstone, but the core layer (core/meta) is of scarthgap\n",
                "yocto_series: scarthgap",
            ],
        ),
        (
            vec![("mine", mine(""))],
            Some("kirkstone"),
            vec![
                "there is no core layer\n",
                "  - name: openembedded-core\n",
                "    branch: kirkstone\n    sublayers: {include: [meta]}",
            ],
        ),
        (
            vec![("core/meta+", CORE.to_owned()), ("mine/meta-mine", needs("core meta-python nowhere"))],
            None,
            vec![
                "the layer `mine` (mine/meta-mine) needs `meta-python`, `nowhere`: not there\n",
                "layers:\n  - name: meta-openembedded\n    git: https://git.openembedded.org/meta-openembedded\n    branch: scarthgap\n    sublayers: {include: [meta-python]}\n",
                "which repository has nowhere:  https://",
                "or leave out what needs it, where smidr.yaml names `mine`:  sublayers: {exclude: [meta-mine]}",
            ],
        ),
    ] {
        let confs: Vec<(&str, &str)> = confs.iter().map(|(place, conf)| (*place, conf.as_str())).collect();
        let text = refused(&confs, series);
        for expected in expected {
            assert!(text.contains(expected), "`{expected}` is not in: {text}");
        }
    }
    // A layer that is there and not used, in a repository of which others are used: by name, or all but those left out.
    for (place, expected) in [
        ("mine/meta-mine+", "names it:  sublayers: {include: [meta-mine, meta-unused]}"),
        ("mine/meta-mine", "use meta-unused of `mine` too: take it out"),
    ] {
        let yard = yard();
        layers(yard.path(), &[("mine/meta-unused", unused)]);
        let found = layers(yard.path(), &[("core/meta+", CORE), (place, &needs("unused-layer"))]);
        let error = check(&found, "x", None, "").expect_err("a missing layer");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(expected), "{hint}");
    }
}

#[test]
fn two_entries_of_the_config_may_be_one_repository() {
    let yard = yard();
    let mut found = layers(yard.path(), &[("core/meta", CORE), ("mine", &mine("")), ("mine", &mine(""))]);
    found[2].repository = "again".into();
    let error = check(&found, "x", None, "").expect_err("twice");
    let text = error.to_string();
    assert!(text.contains("one of `mine` (/") && text.contains("one of `again` (/"), "{text}");
    assert_eq!(error.hint().as_deref(), Some("one entry in `layers` is enough: remove `mine` or `again`"));
}

#[test]
fn a_series_that_is_ignored_is_said_and_given_to_bitbake() {
    for (core, name, value) in [
        (CORE.to_owned(), "LAYERSERIES_COMPAT_mine:append", " scarthgap"),
        (CORE.replace("scarthgap", "dunfell"), "LAYERSERIES_COMPAT_mine_append", " dunfell"),
    ] {
        let yard = yard();
        let conf = mine("").replace("kirkstone scarthgap", "kirkstone");
        let mut found = layers(yard.path(), &[("core/meta", &core), ("mine", &conf)]);
        found[1].ignore_series = true;
        let all = check(&found, "x", None, "").expect("layers");
        assert_eq!(all.bblayers, [(name.to_owned(), value.to_owned())]);
        assert!(all.warnings[0].contains("`mine` works with kirkstone, and is used with"), "{:?}", all.warnings);
        found[0].ignore_series = true;
        let all = check(&found, "x", Some("wrynose"), "").expect("layers");
        assert!(all.warnings[0].contains("is used for wrynose all the same"), "{:?}", all.warnings);
    }
    for branch in ["master", "main", "scarthgap-next"] {
        checked(&[("core/meta", CORE)], Some(branch)).expect(branch);
    }
}

#[test]
fn what_is_not_known_is_no_reason_to_stop() {
    for (conf, expected) in [
        (mine("LAYERSERIES_COMPAT_mine = \"${LAYERSERIES_COMPAT_core}\""), "whether the layer `mine` ("),
        (mine("LAYERSERIES_COMPAT_mine = \"${@x()}\""), "whether the layer `mine` ("),
        (mine("LAYERDEPENDS_mine = \"core ${@x('a', 'b')}\""), "all that the layer `mine` ("),
        (
            mine("LAYERDEPENDS_mine = \"nowhere\"\nBBFILE_COLLECTIONS += \"${@x()}\""),
            "which layers there are is not known",
        ),
        (mine("BBFILE_COLLECTIONS = \"mine\""), "mine takes the layer `core` out of BBFILE_COLLECTIONS"),
        (mine("include ${@x()}.inc"), "which smidr does not see"),
    ] {
        let all = checked(&[("core/meta", CORE), ("mine", &conf)], None).expect(&conf);
        assert!(all.warnings.iter().any(|warning| warning.contains(expected)), "{expected}: {:?}", all.warnings);
    }
    let sure = mine("LAYERDEPENDS_mine = \"nowhere ${@x()}\"");
    assert!(matches!(checked(&[("core/meta", CORE), ("mine", &sure)], None), Err(CollectionError::Depends { .. })));
}

#[test]
fn what_bitbake_says_clearly_is_left_to_bitbake() {
    for conf in [
        mine("BBFILE_PRIORITY_mine = \"high\""),
        mine("").replace("BBFILE_PATTERN", "X"),
        mine("BBFILES_DYNAMIC += \"${LAYERDIR}/a.bb\""),
        mine("BBFILE_COLLECTIONS += \"mine\""),
        mine("LAYERDEPENDS_mine = \"core (>= 16)\""),
        mine("LAYERDEPENDS_mine = \"core (16)\""),
        mine("A = b"),
    ] {
        let all = checked(&[("core/meta", CORE), ("mine", &conf), ("bare", "")], None).expect(&conf);
        let [_, mine, _] = &all.layers[..] else { panic!("{:?}", all.layers) };
        assert_eq!((mine.collection.as_deref(), mine.priority), (Some("mine"), None), "{conf}");
    }
}

#[test]
fn dependencies_without_their_versions() {
    for (text, expected) in [
        ("", &[][..]),
        (" core  openembedded-layer ", &["core", "openembedded-layer"]),
        ("core (>= 12) openembedded-layer", &["core", "openembedded-layer"]),
        ("core (>=12), x ( = 1 ) y", &["core", "x", "y"]),
        ("core (12", &["core"]),
    ] {
        assert_eq!(needed(text), expected, "{text}");
    }
}

#[test]
fn local_conf_has_the_last_word() {
    let yard = yard();
    let conf = mine("LAYERDEPENDS_mine = \"core nowhere\"");
    let found = layers(yard.path(), &[("core/meta", CORE), ("mine", &conf)]);
    write(yard.path().join("mine/conf/machine/board.conf"), "").expect("a file");
    let remove = "LAYERDEPENDS_mine:remove = \"nowhere\"\n";
    check(&found, "board", None, "").expect_err("nowhere");
    check(&found, "board", None, remove).expect("layers");
    check(&found, "other", None, &format!("{remove}MACHINE = \"board\"\n")).expect("the last machine");
    let error = check(&found, "board", None, &format!("{remove}MACHINE = \"bored\"\n")).expect_err("no machine");
    assert_eq!(error.to_string(), "no layer has the machine `bored`");
}

#[test]
fn machines_are_looked_for_in_bbpath() {
    let yard = yard();
    let other = "BBFILE_COLLECTIONS += \"other\"\nBBFILE_PATTERN_other = \"\"\n";
    let found = layers(yard.path(), &[("core/meta", CORE), ("other", other)]);
    for machine in
        ["core/meta/conf/machine/qemuarm", "core/meta/conf/machine/vendor/board", "other/conf/machine/hidden"]
    {
        let path = yard.path().join(format!("{machine}.conf"));
        create_dir_all(path.parent().expect("a folder")).expect("folders");
        write(path, "").expect("a file");
    }
    for machine in ["qemuarm", "vendor/board"] {
        check(&found, machine, None, "").expect(machine);
    }
    // A layer that is there and not used has one more.
    layers(yard.path(), &[("core/meta-bsp", "")]);
    write(yard.path().join("core/meta-bsp/conf/machine/beagle.conf"), "").expect("a file");
    let error = check(&found, "beagle", None, "").expect_err("not used");
    let hint = error.hint().expect("a hint");
    assert!(hint.starts_with("a layer has it that is not used: use meta-bsp of `core` too"), "{hint}");
    // `other` does not put itself into BBPATH.
    for machine in ["hidden", "board", "../machine/none"] {
        let error = check(&found, machine, None, "").expect_err(machine);
        assert_eq!(error.hint().as_deref(), Some("the layers have one machine: qemuarm"), "{machine}");
    }
}

#[test]
fn a_layer_of_any_size_has_an_end() {
    let names: String = (0..100_000).map(|n| format!("n{n} ")).collect();
    let begun = std::time::Instant::now();
    for conf in [mine(&format!("BBFILE_COLLECTIONS += \"{names}\"")), mine(&format!("LAYERDEPENDS_mine = \"{names}\""))]
    {
        let result = checked(&[("core/meta", CORE), ("mine", &conf), ("bare", "")], None);
        assert!(matches!(result, Err(CollectionError::Conf(ConfError::TooMuch { .. }))), "{result:?}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
}
