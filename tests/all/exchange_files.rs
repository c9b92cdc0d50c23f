//! Files of other tools: imported, exported, and what they mean afterwards; the schema and the style of smidr's own.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    kas::{cases, lay_out},
    support::{World, hermetic},
};

/// What decides over a build in a plan.
fn meaning(world: &World, folder: &Path, config: &str) -> Value {
    let done = world.smidr().current_dir(folder).args(["-c", config, "plan", "--json", "--target", "t"]).run();
    done.expect_code(0);
    let plan: Value = serde_json::from_str(&done.out).expect("JSON");
    let plan = &plan["plan"];
    let layers: Vec<Value> = plan["layers"].as_array().expect("layers").iter().map(layer).collect();
    let task = plan["task"].as_str().unwrap_or("build");
    serde_json::json!({"machine": plan["machine"], "task": task, "layers": layers})
}

fn layer(layer: &Value) -> Value {
    let source = &layer["source"];
    let of = |key: &str| source[key].clone();
    serde_json::json!({
        "name": layer["name"], "include": layer["include"], "has_layers": layer["has_layers"],
        "url": of("url"), "branch": of("branch"), "tag": of("tag"), "commit": of("commit"),
    })
}

#[test]
fn kas_projects_keep_their_meaning_there_and_back() {
    let world = World::new();
    let mut seen = 0;
    for case in cases(&world, "kas") {
        let name = case.file_name().expect("a name").to_string_lossy().into_owned();
        if !["01", "04", "07", "10", "11"].iter().any(|wanted| name.starts_with(wanted)) {
            continue;
        }
        let work = world.work.join(&name);
        lay_out(&world, &case, &work);
        let lines = fs::read_to_string(case.join("runs")).expect("runs");
        for line in lines.lines().filter(|line| line.split_whitespace().count() == 2) {
            let (run, config) = line.split_once(' ').expect("two words");
            let smidr = || world.smidr().current_dir(&work);
            let own = format!("{run}.smidr.yaml");
            let done = smidr().args(["import", config, "-o", &own]).run();
            if done.code != Some(0) {
                continue; // what kas refuses
            }
            seen += 1;
            let before = meaning(&world, &work, config);
            assert_eq!(meaning(&world, &work, &own), before, "{name} {run}, imported");
            let again = smidr().args(["import", config, "-o", &own]).run();
            again.expect_code(2).expect_err("is there already");
            smidr().args(["-c", &own, "check"]).run();
            let exported = smidr().args(["-c", &own, "export", "kas"]).run();
            if exported.code == Some(2) {
                exported.expect_err("not here yet");
                continue;
            }
            exported.expect_code(0).expect_err("left out   the build host");
            fs::write(work.join(format!("{run}.kas.yml")), &exported.out).expect("a file");
            let after = meaning(&world, &work, &format!("{run}.kas.yml"));
            assert_eq!(after["machine"], before["machine"], "{name} {run}: {}", exported.out);
            let urls = |plan: &Value| {
                let layers = plan["layers"].as_array().expect("layers").clone();
                layers.iter().filter(|layer| !layer["url"].is_null()).cloned().collect::<Vec<_>>()
            };
            assert_eq!(urls(&after), urls(&before), "{name} {run}: {}", exported.out);
        }
    }
    assert!(seen > 8, "only {seen} runs");
}

#[test]
fn configurations_of_bitbake_setup_keep_their_meaning_there_and_back() {
    let world = World::new();
    let case = cases(&world, "bbsetup").remove(1);
    let work = world.work.join("case");
    lay_out(&world, &case, &work);
    let project = work.join("project");
    let smidr = || world.smidr().current_dir(&project);
    let words = ["nested.conf.json", "deeper", "distro/e", "machine/m"];
    smidr().arg("import").args(words).run().expect_code(2).expect_err("--target");
    smidr().arg("import").args(words).args(["--target", "t"]).run().expect_code(0);
    let text = fs::read_to_string(project.join("smidr.yaml")).expect("a file");
    assert!(text.contains("OE_FRAGMENTS += \"outer/fragment distro/e\""), "{text}");
    let before = meaning(&world, &project, &words.join(":"));
    assert_eq!(meaning(&world, &project, "smidr.yaml"), before);
    let done = smidr().args(["export", "conf.json"]).run();
    done.expect_code(0);
    fs::write(project.join("back.conf.json"), &done.out).expect("a file");
    let after = meaning(&world, &project, "back.conf.json");
    assert_eq!(after["layers"], before["layers"], "{}", done.out);
}

/// All keys of a schema, `[]` for items of lists.
fn keys(schema: &Value, path: &str, into: &mut Vec<String>) {
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let has = |schema: &Value| schema["properties"].is_object();
        match () {
            () if has(below) => keys(below, &path, into),
            () if has(&below["items"]) => keys(&below["items"], &format!("{path}[]"), into),
            () => into.push(path),
        }
    }
}

#[test]
fn the_schema_has_exactly_the_keys_and_explains_them() {
    let world = World::new();
    let schema = |document: &str| -> Value {
        let done = world.smidr().args(["schema", document]).run();
        serde_json::from_str(&done.expect_code(0).out).expect("JSON")
    };
    let own = schema("smidr");
    let mut found = Vec::new();
    keys(&own, "", &mut found);
    found.retain(|key| !["kas", "bitbake_setup"].contains(&key.as_str()));
    let reference = include_str!("../../docs/config.md");
    let mut written: Vec<String> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(key, _)| key.to_owned()))
        .collect();
    written.sort();
    found.sort();
    assert_eq!(found, written);
    assert_eq!(own["required"], Value::Null);
    assert!(own["anyOf"][0]["required"].as_array().expect("keys").contains(&"name".into()), "{own}");
    let isolation = &own["properties"]["host"]["properties"]["isolation"];
    assert_eq!(isolation["anyOf"][0]["enum"], serde_json::json!(["auto", "full", "none"]), "{isolation}");
    let layer = &own["properties"]["layers"]["items"];
    assert_eq!(layer["required"][0], "name");
    assert!(layer["properties"]["branch"]["type"].is_array(), "{layer}");
    assert_eq!(own["properties"]["variants"]["additionalProperties"]["type"][0], "object");
    for (document, some) in [("daemon", "customers"), ("settings", "trust")] {
        let schema = schema(document);
        assert!(schema["properties"][some].is_object(), "{schema}");
    }
    let daemon = schema("daemon");
    let customer = &daemon["properties"]["customers"]["additionalProperties"]["properties"];
    assert!(customer["weight"]["description"].as_str().is_some_and(|text| text.contains("share")), "{customer}");
}

#[test]
fn fmt_keeps_comments_and_what_is_said() {
    let world = World::new();
    let file = world.work.join("smidr.yaml");
    let text = "# a head\nname:   x   # behind\nbase: { machine: m }\nbuild:\n    image: 'i'\nlocal_conf: |\n  A = \"1\"\n\n\n  B = \"2\"\n";
    fs::write(&file, text).expect("a file");
    let smidr = || world.smidr().current_dir(&world.work);
    smidr().args(["fmt", "--check"]).run().expect_code(2).expect_err("another style");
    assert_eq!(fs::read_to_string(&file).expect("text"), text);
    smidr().arg("fmt").run().expect_code(0);
    let styled = fs::read_to_string(&file).expect("text");
    for kept in ["# a head\n", "# behind", "{machine: m}", "  A = \"1\"\n\n\n  B = \"2\"\n"] {
        assert!(styled.contains(kept), "{kept:?} in\n{styled}");
    }
    assert_ne!(styled, text);
    smidr().args(["fmt", "--check"]).run().expect_code(0);
    for (wrong, says) in [
        ("name: x\nbase: {machine: m}\nlocal_conf: |\n  A = \"1\"  \n", "line 4 ends with blanks"),
        ("name: x\nbase:\n  machine: m  # a board\n  # distro: d\nbuild: {image: i}\n", "comment in line 4"),
    ] {
        fs::write(&file, wrong).expect("a file");
        let done = smidr().arg("fmt").run();
        assert!(done.code == Some(0) || done.err.contains(says), "{}", done.err);
        let now = fs::read_to_string(&file).expect("text");
        assert!(now == wrong || now.contains("\n  # distro"), "{now}");
    }
    fs::write(&file, "name: [\n").expect("a file");
    smidr().arg("fmt").run().expect_code(2).expect_err("smidr.yaml:");
    assert_eq!(fs::read_to_string(&file).expect("text"), "name: [\n");
}

/// A repository with these files, on a branch.
fn repository(world: &World, folder: &Path, branch: &str, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }
    let script = format!(
        "git init -q -b {branch} . && git add -A && git -c user.name=x -c user.email=x@localhost commit -q -m x"
    );
    assert!(hermetic("sh", &world.home).args(["-c", &script]).current_dir(folder).status().expect("sh").success());
    format!("file://{}", folder.display())
}

fn layer_conf(collection: &str, series: &str, depends: &str) -> String {
    format!(
        "BBPATH .= \":${{LAYERDIR}}\"\nBBFILE_COLLECTIONS += \"{collection}\"\nBBFILE_PATTERN_{collection} = \"^${{LAYERDIR}}/\"\n\
         BBFILE_PRIORITY_{collection} = \"5\"\nLAYERSERIES_COMPAT_{collection} = \"{series}\"\nLAYERDEPENDS_{collection} = \"{depends}\"\n"
    )
}

#[test]
fn a_manifest_becomes_a_project_of_the_layers_that_fit() {
    let world = World::new();
    let srv = world.work.join("srv");
    let core = format!("LAYERSERIES_CORENAMES = \"wrynose\"\n{}", layer_conf("core", "wrynose", ""));
    repository(
        &world,
        &srv.join("oe/core"),
        "main",
        &[("meta/conf/layer.conf", &core), ("meta/conf/machine/m.conf", ""), ("bitbake/bin/bitbake", "")],
    );
    repository(
        &world,
        &srv.join("oe/vendor"),
        "v1",
        &[
            ("meta-good/conf/layer.conf", &layer_conf("good", "wrynose", "core")),
            ("meta-old/conf/layer.conf", &layer_conf("old", "kirkstone", "core")),
            ("meta-needy/conf/layer.conf", &layer_conf("needy", "wrynose", "nobody")),
            ("meta-needier/conf/layer.conf", &layer_conf("needier", "wrynose", "needy")),
        ],
    );
    repository(&world, &srv.join("oe/docs"), "main", &[("README", "x")]);
    let manifests = srv.join("oe/manifests");
    repository(
        &world,
        &manifests,
        "main",
        &[
            (
                "default.xml",
                "<manifest><remote name=\"here\" fetch=\"..\"/><default remote=\"here\" revision=\"main\"/>\
             <project name=\"core\" path=\"sources/core\"/><include name=\"more.xml\"/></manifest>",
            ),
            (
                "more.xml",
                "<manifest><project name=\"vendor\" revision=\"refs/heads/v1\"/><project name=\"docs\"/></manifest>",
            ),
        ],
    );
    let clone = format!("git clone -q file://{} manifests", manifests.display());
    assert!(hermetic("sh", &world.home).args(["-c", &clone]).current_dir(&world.work).status().expect("sh").success());
    let folder = world.work.join("manifests");
    let smidr = || world.smidr().current_dir(&folder).env("SMIDR_TRUST", "1");
    smidr()
        .args(["build", "default.xml", "--machine", "m"])
        .run()
        .expect_code(2)
        .expect_err("smidr import default.xml");
    smidr().args(["init", "."]).run().expect_code(2).expect_err("smidr import default.xml");
    smidr().args(["import", "default.xml"]).run().expect_code(2).expect_err("--machine");
    let wrong = smidr().args(["import", "default.xml", "--machine", "nobody", "--target", "t"]).run();
    wrong.expect_code(2).expect_err("the machine nobody");
    let done = smidr().args(["import", "default.xml", "--machine", "m", "--target", "world"]).run();
    done.expect_code(0)
        .expect_err("old (vendor): it works with kirkstone")
        .expect_err("needy (vendor): it needs nobody");
    done.expect_err("needier (vendor): it needs needy");
    let plan = meaning(&world, &folder, "smidr.yaml");
    let layers = plan["layers"].as_array().expect("layers");
    let included: Vec<String> = layers.iter().map(|layer| layer["include"].to_string()).collect();
    assert_eq!(included, ["[\"meta\"]", "[\"meta-good\"]", "[]"], "{plan}");
    smidr().args(["check"]).run().expect_code(0);
    assert!(folder.join("smidr.lock").is_file());
}

#[test]
fn a_build_folder_becomes_a_project_of_its_layers() {
    let world = World::new();
    let core = world.work.join("poky");
    repository(
        &world,
        &core,
        "main",
        &[
            ("meta/conf/layer.conf", &layer_conf("core", "wrynose", "")),
            ("meta-poky/conf/layer.conf", &layer_conf("yocto", "wrynose", "core")),
        ],
    );
    let conf = world.work.join("build/conf");
    fs::create_dir_all(&conf).expect("folders");
    fs::write(
        conf.join("bblayers.conf"),
        "BBPATH = \"${TOPDIR}\"\nBBLAYERS ?= \" \\\n  ${TOPDIR}/../poky/meta \\\n  ${TOPDIR}/../poky/meta-poky \\\n  \"\n",
    )
    .expect("a file");
    fs::write(conf.join("local.conf"), "# a remark\nMACHINE ??= \"m\"\nDISTRO = 'poky'\nDL_DIR = \"/d\"\nX = \"1\"\n")
        .expect("a file");
    let smidr = || world.smidr().current_dir(&world.work);
    smidr().args(["build"]).run().expect_code(2).expect_err("smidr import build/conf/bblayers.conf");
    let done = smidr().args(["import", "build/conf/bblayers.conf", "--target", "t", "--name", "p"]).run();
    done.expect_code(0).expect_err("DL_DIR");
    let plan = meaning(&world, &world.work, "smidr.yaml");
    assert_eq!(
        (plan["machine"].as_str(), plan["layers"][0]["include"].to_string()),
        (Some("m"), "[\"meta\",\"meta-poky\"]".into())
    );
    let text = fs::read_to_string(world.work.join("smidr.yaml")).expect("a file");
    assert!(text.contains("  X = \"1\"\n") && !text.contains("DL_DIR"), "{text}");
}

#[test]
fn lock_writes_what_kas_reads() {
    let Some(world) = World::with_image("exchange_files::lock_writes_what_kas_reads") else { return };
    let case = cases(&world, "kas").remove(4);
    let work = world.work.join("case");
    lay_out(&world, &case, &work);
    let lines = fs::read_to_string(case.join("runs")).expect("runs");
    let config = lines.lines().find_map(|line| line.split_whitespace().nth(1)).expect("a config").to_owned();
    let lock = work.join(config.replace(".yml", ".lock.yml"));
    let _ = fs::remove_file(&lock);
    fs::write(work.join("smidr.yaml"), format!("kas: {config}\nhost: {{recipe: hello}}\n")).expect("a file");
    let smidr = || world.smidr().current_dir(&work);
    smidr().args(["-c", &config, "lock", "--kas"]).run().expect_code(0);
    assert!(lock.is_file());
    // What it pins is part of the config, and pinned as such.
    smidr().args(["build", "--locked"]).run().expect_code(0);
    smidr().args(["lock", "--update"]).run().expect_code(0).expect_err("smidr lock --update --kas");
    // A project of its own, in the same folder: nobody has changed conf by hand.
    fs::remove_file(work.join("smidr.yaml")).expect("a file");
    smidr().args(["import", &config]).run().expect_code(0);
    let text = fs::read_to_string(work.join("smidr.yaml")).expect("a file");
    fs::write(work.join("smidr.yaml"), format!("{text}host: {{recipe: hello}}\n")).expect("a file");
    let done = smidr().args(["build"]).run();
    assert!(!done.err.contains("was changed in a shell"), "{}", done.err);
    fs::write(work.join("smidr.yaml"), format!("kas: {config}\nhost: {{recipe: hello}}\n")).expect("a file");
    smidr().args(["build"]).run().expect_code(0);
}
