//! Reports for CI: what a build writes that fails, as the programs read it that take it.

use std::{fs, process::Command};

use serde_json::Value;

use super::support::{World, has, skip};

/// Reads JUnit XML as JSON: suites of name, counts and tests.
const READ: &str = "
import json, sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
def case(node):
    failure = node.find('failure')
    return {**node.attrib, 'skipped': node.find('skipped') is not None,
            'failure': None if failure is None else {**failure.attrib, 'text': failure.text}}
print(json.dumps([{**suite.attrib, 'cases': [case(node) for node in suite.iter('testcase')]} for suite in root]))
";

fn suites(world: &World, file: &str) -> Vec<Value> {
    let read = Command::new("python3").args(["-c", READ]).arg(world.project().join(file)).output().expect("python3");
    assert!(read.status.success(), "{file}: {}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice::<Vec<Value>>(&read.stdout).expect("JSON")
}

fn case<'a>(suite: &'a Value, name: &str) -> &'a Value {
    let cases = suite["cases"].as_array().expect("tests");
    cases.iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("{name} is not in {suite:#}"))
}

#[test]
fn a_failing_build_is_reported_to_every_ci() {
    let test = "reports::a_failing_build_is_reported_to_every_ci";
    if !has("python3") {
        return skip(test, "python3 reads the report, and is not here");
    }
    let Some(world) = World::with_project(test) else { return };
    world.edit("layers/meta-hello/recipes-hello/hello/files/hello.c", "greet(text, sizeof", "greet(txt, sizeof");
    fs::write(world.work.join("step.md"), "# before\n").expect("a summary");
    let done = world
        .smidr()
        .args(["build", "--target", "hello", "--junit", "out/report.xml", "--code-quality", "out/quality.json"])
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_WORKSPACE", &world.work)
        .env("GITHUB_STEP_SUMMARY", world.work.join("step.md"))
        .run();
    done.expect_code(1);
    let recipe = "p/layers/meta-hello/recipes-hello/hello/hello_1.0.bb";
    let lines: Vec<&str> = done.err.lines().filter(|line| line.starts_with("::")).collect();
    assert!(
        matches!(lines.as_slice(), [line] if line.starts_with(&format!("::error file={recipe},line=1,title=hello%3Ado_compile%3A compile-error::"))),
        "{lines:?}"
    );
    let (id, all) = (done.build_id(), suites(&world, "out/report.xml"));
    let [suite] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&suite["name"], &suite["failures"]), (&id.as_str().into(), &"1".into()));
    let hello = case(suite, "hello");
    assert_eq!((&hello["classname"], &hello["failure"]["type"]), (&"p".into(), &"compile-error".into()), "{hello}");
    assert!(
        hello["failure"]["text"].as_str().is_some_and(|text| text.contains("\n| hello.c:11:15: error: ")),
        "{hello}"
    );
    assert!(hello["time"].as_str().and_then(|time| time.parse::<f64>().ok()).is_some_and(|time| time > 0.0), "{hello}");
    assert!(suite["cases"].as_array().expect("tests").iter().all(|case| case["name"] != "hello-image"), "{suite:#}");
    let quality: Value =
        serde_json::from_slice(&fs::read(world.project().join("out/quality.json")).expect("a report")).expect("JSON");
    assert_eq!(quality[0]["location"]["path"], recipe, "{quality:#}");
    let summary = fs::read_to_string(world.work.join("step.md")).expect("a summary");
    assert!(summary.starts_with(&format!("# before\n## {}: FAILED\n", id.replace('-', "\\-"))), "{summary}");
    assert!(summary.contains("### hello\\:do\\_compile\\: compile\\-error\n"), "{summary}");
    // Later, of the record, the same is told; nothing is annotated unless that is asked for.
    let explain = ["explain", &id, "--junit", "out/again.xml", "--annotations", "github"];
    let again = world.smidr().args(explain).env("GITHUB_WORKSPACE", &world.work).run();
    again.expect_code(0).expect_err("::error file=p/layers/");
    assert_eq!(suites(&world, "out/again.xml"), all);
    let logs = world.smidr().args(["logs", "--junit", "out/logs.xml"]).env("GITHUB_ACTIONS", "true");
    let logs = logs.env("GITHUB_WORKSPACE", &world.work).run();
    assert!(!logs.expect_code(0).err.contains("::error"), "{}", logs.err);
    assert_eq!(suites(&world, "out/logs.xml"), all);
    // Two at once: a suite each.
    world.append("variants: {a: {}, b: {build: {image: nothing-like-this}}}\n");
    world.edit("layers/meta-hello/recipes-hello/hello/files/hello.c", "greet(txt, sizeof", "greet(text, sizeof");
    let both = ["build", "--all-variants", "--keep-going", "--junit", "out/both.xml", "--annotations", "gitlab"];
    world.smidr().args(both).env("GITHUB_ACTIONS", "true").run();
    let all = suites(&world, "out/both.xml");
    assert_eq!(all.len(), 2, "{all:?}");
    let hello = case(&all[0], "hello");
    assert_eq!((&hello["classname"], &hello["failure"]), (&"p.a".into(), &Value::Null));
    assert_eq!(case(&all[1], "the build")["failure"]["message"].as_str().map(str::is_empty), Some(false), "{all:#?}");
    assert!(world.project().join("gl-code-quality-report.json").is_file());
}

#[test]
fn what_does_not_begin_is_reported_too() {
    let test = "reports::what_does_not_begin_is_reported_too";
    if !has("python3") {
        return skip(test, "python3 reads the report, and is not here");
    }
    let world = World::new();
    world.init("p");
    world.append("nonsense: 1\n");
    let refused = world.smidr().args(["build", "--junit", "r.xml", "--annotations", "github"]).run();
    refused
        .expect_code(2)
        .expect_err("nonsense")
        .expect_err("::error file=smidr.yaml,line=1,title=the build%3A request::");
    let suite = &suites(&world, "r.xml")[0];
    let failure = &case(suite, "the build")["failure"];
    assert_eq!(failure["type"], "request");
    assert!(failure["text"].as_str().is_some_and(|text| text.contains("nonsense")), "{failure}");
    let log = "ERROR: a-1.0-r0 do_fetch: Fetcher failure for URL: 'https://h/a.tar.gz'. Unable to fetch URL from any source.\nERROR: Task (/l/a_1.0.bb:do_fetch) failed with exit code '1'\n";
    fs::write(world.project().join("console.log"), log).expect("a log");
    world.smidr().args(["explain", "--log", "console.log", "--junit", "c.xml"]).run().expect_code(0);
    let suite = &suites(&world, "c.xml")[0];
    assert_eq!((&suite["name"], &case(suite, "a")["skipped"]), (&"console.log".into(), &false.into()));
    world.smidr().args(["build", "--junit", "."]).run().expect_code(2).expect_err("is a folder, and no report");
    world.smidr().args(["build", "--detach", "--junit", "r"]).run().expect_code(2).expect_err("cannot be used with");
    world.smidr().args(["logs", "--task", "a:do_b", "--junit", "r"]).run().expect_code(2);
}
