//! What is recorded of a build, and who may read it.

use std::fs;

use super::{support::World, trouble::recipe};

#[test]
fn a_log_that_could_not_be_kept_is_masked_all_the_same() {
    let Some(world) = World::with_project("records::a_log_that_could_not_be_kept_is_masked_all_the_same") else {
        return;
    };
    world.edit("smidr.yaml", "host:\n", "host:\n  env: [MY_TOKEN]\n");
    recipe(
        &world,
        "bad",
        "    while ! [ -e ${TOPDIR}/../go ]; do sleep 0.1; done\n    echo \"token ${MY_TOKEN}\"; exit 1",
    );
    let smidr = |token: &str| world.smidr().env("MY_TOKEN", token);
    let mut running = smidr("hunter2-SECRET").args(["build", "--target", "bad"]).start();
    running.until_says("task  ");
    let status = world.smidr().args(["status", "--json"]).run().json();
    let id = status["builds"][0]["id"].as_str().expect("an id").to_owned();
    // Something is in the way of the kept logs, as a full disk would be.
    let folder = world.smidr.join("builds").join(&id);
    fs::write(folder.join("logs"), "").expect("a file");
    let workspaces = || fs::read_dir(world.smidr.join("workspaces")).expect("workspaces").flatten();
    workspaces().for_each(|workspace| fs::write(workspace.path().join("go"), "").expect("a file"));
    running.wait().expect_code(1);
    let log = |token: &str| smidr(token).args(["logs", &id, "--task", "bad:do_act"]).run();
    log("hunter2-SECRET").expect_code(0).expect_out("token ***");
    let strange = log("another");
    strange.expect_code(2).expect_one_error().expect_err("may hold passwords or tokens of that build");
    assert!(!strange.out.contains("SECRET"), "{}", strange.out);
}

#[test]
fn tasks_of_multiconfigs_are_told_apart() {
    let Some(world) = World::with_project("records::tasks_of_multiconfigs_are_told_apart") else { return };
    world.append("\nlocal_conf: |\n  BBMULTICONFIG = \"other\"\n");
    world.write("layers/meta-hello/conf/multiconfig/other.conf", "");
    recipe(&world, "bad", "    echo said in its log; exit 1");
    let done = world.smidr().args(["build", "--target", "bad", "--target", "mc:other:bad", "--", "-k"]).run();
    done.expect_code(1).expect_err("failed in bad:do_act").expect_err("failed in mc:other:bad:do_act");
    let id = done.build_id();
    let log = |task: &str| world.smidr().args(["logs", &id, "--task", task]).run();
    log("mc:other:bad:do_act").expect_code(0).expect_out("said in");
    log("bad:do_act").expect_code(0).expect_out("said in");
    assert_eq!(World::names(&world.smidr.join("builds").join(&id).join("logs")).len(), 2);
}

#[test]
fn a_wrong_config_shows_no_other_project() {
    let Some(world) = World::with_project("records::a_wrong_config_shows_no_other_project") else { return };
    recipe(&world, "one", "    true");
    world.smidr().args(["build", "--target", "one"]).run().expect_code(0);
    let other = world.work.join("other");
    fs::create_dir(&other).expect("a folder");
    // A checkout of the same name is another project, too.
    let config = fs::read_to_string(world.project().join("smidr.yaml")).expect("a config");
    fs::write(other.join("smidr.yaml"), &config).expect("a config");
    for args in [&["logs"][..], &["artifacts", "list"], &["attach"]] {
        let done = world.smidr().current_dir(&other).args(args).run();
        done.expect_code(2).expect_one_error().expect_err("`p` has not been built yet");
    }
    fs::write(other.join("smidr.yaml"), config.replace("build:", "biuld:")).expect("a config");
    for args in [&["logs"][..], &["artifacts", "list"], &["attach"]] {
        let done = world.smidr().current_dir(&other).args(args).run();
        done.expect_code(2).expect_err("unknown key");
        assert_eq!(done.out, "");
    }
    // Builds of this project can be looked at even so.
    world.write("smidr.yaml", &config.replace("build:", "biuld:"));
    world.smidr().arg("logs").run().expect_code(0).expect_out("completed in");
}

#[test]
fn one_folder_named_twice_is_locked_once() {
    let Some(world) = World::with_project("records::one_folder_named_twice_is_locked_once") else { return };
    world.append("\ndirectories: {build: ./x/build, tmp: ./y, deploy: ./x/build}\n");
    recipe(&world, "one", "    true");
    world.smidr().args(["build", "--target", "one"]).run().expect_code(0);
}

/// `TaskStarted` as a document has it.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[test]
fn the_reference_names_every_event_and_field() {
    let reference = include_str!("../../docs/events.md");
    let section = |name: &str| {
        let from = reference
            .split(&format!("## `{name}`\n"))
            .nth(1)
            .unwrap_or_else(|| panic!("{name} is not in docs/events.md"));
        from.split("\n##").next().expect("a section").to_owned()
    };
    let check = |name: &str, fields: &syn::Fields| {
        let section = section(name);
        for field in fields {
            let own = field.ident.as_ref().expect("a name").to_string();
            let is_task = matches!(&field.ty, syn::Type::Path(path) if path.path.is_ident("TaskName"));
            let names = if is_task { vec!["recipe".into(), "task".into()] } else { vec![own] };
            for field in names {
                assert!(section.contains(&format!("| `{field}` |")), "{name}.{field} is not in docs/events.md");
            }
        }
        section.matches("\n| `").count()
    };
    let mut checked = 0;
    for source in [include_str!("../../src/model/event.rs"), include_str!("../../src/model/outcome.rs")] {
        for item in syn::parse_file(source).expect("Rust").items {
            match item {
                syn::Item::Enum(event) if event.ident == "Event" => {
                    checked += event.variants.len();
                    event.variants.iter().for_each(|variant| {
                        let expected = check(&snake(&variant.ident.to_string()), &variant.fields);
                        let flattened = variant.fields.iter().filter(
                            |field| matches!(&field.ty, syn::Type::Path(path) if path.path.is_ident("TaskName")),
                        );
                        assert_eq!(expected, variant.fields.len() + flattened.count(), "{}: too many", variant.ident);
                    });
                    let kinds = reference.matches("\n### `").count();
                    assert_eq!(kinds, event.variants.len(), "docs/events.md has kinds that there are not");
                }
                syn::Item::Struct(outcome) if outcome.ident == "Outcome" => {
                    checked += 1;
                    check("outcome", &outcome.fields);
                }
                _ => {}
            }
        }
    }
    assert!(checked > 20, "{checked}");
}
