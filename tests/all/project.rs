//! `init`, `check` and `plan`: templates are valid, and `check` and `plan` write nothing.

use std::{collections::BTreeMap, fs, path::Path};

use smidr::config::provider;

use super::support::World;

/// Every file below a folder with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.path().display().to_string(), fs::read(entry.path()).expect("a file")))
        .collect()
}

#[test]
fn the_hello_template_is_valid_and_looking_writes_nothing() {
    let world = World::new();
    let done = world.smidr().args(["init", "p", "--template", "hello"]).run();
    done.expect_code(0).expect_err("cd p && smidr build");
    assert_eq!(done.out, "p\n");
    assert_eq!(World::names(&world.work), ["p"], "nothing else is left there");
    let (before, noted) = (tree(&world.project()), tree(&world.smidr));
    assert!(before.keys().any(|path| path.ends_with("/conf/layer.conf")));
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    assert!(config.contains("name: p\n"), "{config}");
    world.smidr().arg("check").run().expect_code(0).expect_err("smidr.yaml is good");
    let plan = world.smidr().arg("plan").run();
    plan.expect_code(0)
        .expect_out("target     hello-image for hello-x86-64")
        .expect_out("rootfs recipe hello, unresolved\n")
        .expect_out("unresolved means: not pinned in smidr.lock; the build pins")
        .expect_out("isolation  its own processes")
        .expect_out("network    for all tasks")
        .expect_out("logins     shown to all servers")
        .expect_out("memory     no limit");
    let json = world.smidr().args(["plan", "--json", "--target", "libgreet", "--machine", "other"]).run();
    let json = json.expect_code(0).json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["plan"]["targets"], serde_json::json!(["libgreet"]));
    assert_eq!(json["plan"]["machine"], "other");
    assert!(json["plan"]["host"]["pinned"].is_null());
    // None of them touches anything: not the project, not the home, not what `init` has noted.
    assert_eq!(tree(&world.project()), before);
    assert_eq!(tree(&world.smidr), noted);
    assert_eq!(World::names(&world.home), Vec::<String>::new());
}

#[test]
fn a_plan_shows_all_that_decides() {
    let world = World::new();
    world.init("p");
    world.edit(
        "smidr.yaml",
        "  recipe: hello",
        "  recipe: hello\n  network: fetch-only\n  memory: 2g\n  cpus: 3\n  isolation: full",
    );
    world.append("env: {GREETING: hi}\nadvanced: {build_timeout: 90}\n");
    let done = world.smidr().args(["plan", "--clean", "--locked", "--", "-k"]).run();
    for line in [
        "with less there is no build (host.isolation: full)",
        "network    for fetching sources, not for the build (host.network: fetch-only)",
        "memory     at most 2.1 GB",
        "processors at most 3",
        "time       at most 5400 s",
        "env        GREETING=hi",
        "build      first removes",
        "build      pins nothing anew (--locked)",
        "arguments  -k",
        "unresolved means: not pinned in smidr.lock; --locked refuses to build",
    ] {
        done.expect_code(0).expect_out(line);
    }
    let offline = world.smidr().args(["plan", "--offline"]).run();
    offline.expect_code(0).expect_out("network    none, neither for image and layers nor in the build (--offline)");
}

#[test]
fn a_config_in_another_folder() {
    let world = World::new();
    let project = world.init("p");
    let file = project.join("smidr.yaml");
    let from_far = world.smidr().current_dir(Path::new("/")).args(["plan", "--config"]).arg(&file).run();
    let layer = format!("meta-hello  {}", project.join("layers/meta-hello").display());
    from_far.expect_code(0).expect_out(&layer);
    let via_link = world.work.join("link");
    std::os::unix::fs::symlink(&project, &via_link).expect("a link");
    let linked = world.smidr().current_dir(&via_link).arg("plan").run();
    assert_eq!(linked.expect_code(0).out, from_far.out, "one project, one workspace, however it is reached");
}

#[test]
fn init_overwrites_nothing() {
    let world = World::new();
    let folder = world.work.join("there");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("precious"), "mine").expect("a file");
    std::os::unix::fs::symlink("nowhere", world.work.join("dangling")).expect("a link");
    let before = tree(&world.work);
    for name in ["there", "dangling"] {
        let done = world.smidr().args(["init", name, "--template", "hello"]).run();
        done.expect_code(2).expect_one_error().expect_err("exists already").expect_err("hint: choose another name");
    }
    assert_eq!(tree(&world.work), before);
    assert_eq!(World::names(&world.work), ["dangling", "there"]);
}

#[test]
fn a_project_in_this_folder() {
    let world = World::new();
    let here = world.work.join("my-project");
    fs::create_dir(&here).expect("a folder");
    fs::write(here.join(".gitignore"), "/out").expect("a file");
    fs::write(here.join("README.md"), "mine\n").expect("a file");
    let init = || world.smidr().args(["init", ".", "--template", "hello"]).current_dir(&here).run();
    init().expect_code(0).expect_err("next:  smidr build");
    assert_eq!(World::names(&here), [".gitignore", "README.md", "layers", "smidr.yaml"]);
    let text = |name: &str| fs::read_to_string(here.join(name)).expect("a file");
    assert!(text("smidr.yaml").contains("name: my-project\n"));
    assert_eq!((text(".gitignore").as_str(), text("README.md").as_str()), ("/out\n/smidr.local.*\n", "mine\n"));
    let before = tree(&here);
    init().expect_code(2).expect_one_error().expect_err("exists already");
    assert_eq!(tree(&here), before);
    assert_eq!(World::names(&here).len(), 4);
}

#[test]
fn invalid_project_names_are_refused() {
    let world = World::new();
    let long = "l".repeat(65);
    for name in ["a b", "../up", "a/b", ".hidden", "-dash", "ü", "", "a:b", long.as_str()] {
        let done = world.smidr().args(["init", "--template", "hello", "--", name]).run();
        assert_eq!(done.expect_code(2).out, "", "{name}");
    }
    assert_eq!(World::names(&world.work), Vec::<String>::new());
    assert_eq!(World::names(world.work.parent().expect("a folder")), ["home", "work"], "../up is not there either");
}

#[test]
fn every_template_is_valid() {
    let world = World::new();
    for name in provider::names() {
        let known = provider::find(name).expect("a provider");
        let done = world.smidr().args(["init", name, "--template", name]).run();
        done.expect_code(0).expect_err(&format!("cd {name} && smidr build"));
        let version = known.version(&known.default).expect("a default version");
        let unbuilt = version.verified.is_none();
        assert_eq!(done.err.contains("not built with smidr yet"), unbuilt, "{}", done.err);
        let project = world.work.join(name);
        assert_eq!(World::names(&project), [".gitignore", "smidr.yaml"], "it needs no other file");
        let smidr = |command: &str| world.smidr().current_dir(&project).arg(command).run();
        let check = smidr("check");
        check.expect_code(0).expect_err("smidr.yaml is good");
        assert_eq!(check.err.contains("not tested by smidr's authors"), unbuilt, "{}", check.err);
        assert_eq!(check.err.contains("accept_fsl_eula: true"), known.eula.is_some(), "{}", check.err);
        let plan = smidr("plan");
        plan.expect_code(0)
            .expect_out(&format!("{} for {}\n", known.image, known.machines[0]))
            .expect_out(&format!("provider   {name} {}: {}; ", known.default, version.about));
        for layer in &version.layers {
            plan.expect_out(&format!("layer      {}  https://", layer.name));
        }
        assert_eq!(plan.out.contains("bitbake    https://"), version.bitbake.is_some(), "{}", plan.out);
        assert!(!plan.out.contains("ACCEPT_FSL_EULA ="), "only the user can accept it");
        assert_eq!(World::names(&world.smidr.join("workspaces")), Vec::<String>::new());
    }
}

#[test]
fn init_defaults_to_poky() {
    let world = World::new();
    world.smidr().args(["init", "p"]).run().expect_code(0);
    let plan = world.smidr().arg("plan").run();
    plan.expect_code(0)
        .expect_out("core-image-minimal for qemux86-64")
        .expect_out("provider   poky 5.0: ")
        .expect_out("layer      poky  https://git.yoctoproject.org/poky scarthgap, unresolved")
        .expect_out("DISTRO = \"poky\"");
}

/// The example of the documentation, from the days of the Go smidr.
const TORADEX: &str = "\
name: toradex-custom-image
base:
  provider: toradex
  machine: verdin-imx8mp
  distro: tdx-xwayland
  version: \"6.0.0\"
layers:
  - name: meta-toradex-bsp-common
    git: https://git.toradex.com/meta-toradex-bsp-common
    branch: kirkstone-6.x.y
  - name: meta-mycompany
    path: ./layers/meta-mycompany
build:
  image: core-image-weston
  extra_packages:
    - python3
";

#[test]
fn a_config_overrides_its_provider() {
    let world = World::new();
    world.init("p");
    let plan = |text: &str| {
        world.write("smidr.yaml", text);
        world.smidr().args(["plan", "--json"]).run().expect_code(0).json()["plan"].clone()
    };
    let planned = plan(TORADEX);
    let layers = planned["layers"].as_array().expect("layers");
    let names: Vec<&str> = layers.iter().filter_map(|layer| layer["name"].as_str()).collect();
    assert_eq!(names.first(), Some(&"meta-toradex-nxp"));
    assert_eq!(names.last(), Some(&"meta-mycompany"), "layers of one's own come last");
    let twin: Vec<_> = layers.iter().filter(|layer| layer["name"] == "meta-toradex-bsp-common").collect();
    assert!(
        twin.len() == 1 && names.iter().position(|name| *name == "meta-toradex-bsp-common") == Some(3),
        "{names:?}"
    );
    assert_eq!(twin[0]["git"]["url"], "https://git.toradex.com/meta-toradex-bsp-common", "the config's, not .git");
    assert_eq!(planned["targets"], serde_json::json!(["core-image-weston"]));
    assert_eq!(planned["provider"]["version"], "6");
    assert_eq!(planned["provider"]["asked"], "6.0.0");
    let warnings = |plan: &serde_json::Value| plan["warnings"].to_string();
    assert!(warnings(&planned).contains("base.version 6.0.0 is built from the branches of toradex 6"), "{planned}");
    assert!(warnings(&planned).contains("accept_fsl_eula"), "{planned}");
    for said in [
        "advanced: {accept_fsl_eula: true}\n",
        "advanced: {accept_fsl_eula: false}\n",
        "local_conf: ACCEPT_FSL_EULA = '1'\n",
    ] {
        let planned = plan(&format!("{TORADEX}{said}"));
        assert!(!warnings(&planned).contains("accept_fsl_eula"), "{said}: {planned}");
    }
    let bare = plan("name: p\nbase: {provider: poky, machine: qemuarm64}\n");
    assert_eq!(bare["provider"]["chosen_by"], "default");
    world.smidr().arg("plan").run().expect_out("provider   poky 5.0, the default version: ");
    let series = plan("name: p\nyocto_series: wrynose\nbase: {provider: poky, machine: qemuarm64}\n");
    assert_eq!(series["provider"]["version"], "6.0");
    assert_eq!(series["bitbake"]["git"]["branch"], "2.18");
    world.smidr().arg("plan").run().expect_out("provider   poky 6.0, from yocto_series: ");
}

#[test]
fn variants_change_only_their_keys() {
    let world = World::new();
    world.init("p");
    world.append("variants:\n  small:\n    build: {image: libgreet}\n    local_conf: |\n      SMALL = \"1\"\n");
    let plan =
        |args: &[&str]| world.smidr().args(["plan", "--json"]).args(args).run().expect_code(0).json()["plan"].clone();
    let (plain, small) = (plan(&[]), plan(&["--variant", "small"]));
    assert_eq!(plain["targets"], serde_json::json!(["hello-image"]));
    assert_eq!(small["targets"], serde_json::json!(["libgreet"]));
    assert!(small["conf_tail"].as_str().is_some_and(|tail| tail.contains("SMALL")), "{small}");
    let workspace = |plan: &serde_json::Value| plan["folders"]["workspace"].as_str().expect("a path").to_owned();
    assert_eq!(workspace(&small), format!("{}-small", workspace(&plain)));
}
