//! A second try, where a failure does not lie in what is built: visibly, at most once, and recorded.

use std::fs;

use super::{
    support::{Done, World},
    trouble,
};

/// A task whose first run says something and fails, and whose second one says what it has.
fn fails_once(world: &World, task: &str, says: &str, then: &str) {
    let script = format!(
        "LICENSE = \"MIT\"\ninherit nobuild\naddtask {task} after do_patch before do_build\n{task}[nostamp] = \"1\"\n{task}() {{\n    \
         if [ ! -e ${{TOPDIR}}/ran ]; then touch ${{TOPDIR}}/ran; printf '%s\\n' {says}; exit 1; fi\n    {then}\n}}\n"
    );
    world.write("layers/meta-hello/recipes-test/once/once.bb", &script);
}

fn build(world: &World) -> Done {
    world.smidr().args(["build", "--target", "once"]).run()
}

fn recovered(world: &World) -> serde_json::Value {
    world.smidr().args(["status", "--json"]).run().json()["builds"][0]["outcome"]["recovered"].clone()
}

#[test]
fn a_network_that_broke_gets_a_second_try() {
    let Some(world) = World::with_project("recovery::a_network_that_broke_gets_a_second_try") else { return };
    fails_once(&world, "do_fetch_more", "'fatal: unable to access: Could not resolve host: example.com'", "true");
    let done = build(&world);
    done.expect_code(0).expect_err("a second try since the network failed (once:do_fetch_more)");
    let record = recovered(&world);
    assert_eq!((&record["how"][0], &record["helped"]), (&"network".into(), &true.into()), "{record}");
    let why = world.smidr().args(["explain", "--json"]).run().expect_code(0).json();
    assert_eq!(why["diagnoses"][0]["kind"], "fetch-network", "{why}");
    world.smidr().arg("explain").run().expect_code(0).expect_out("a second try was made (network): it helped");
    // Not where it is not wanted, and not where there is no network.
    for (config, arguments) in [("recovery: [memory]\n", &[][..]), ("", &["--offline"])] {
        world.append(config);
        let again = world.smidr().args(["run", "--", "rm", "ran"]).run();
        assert_eq!(again.code, Some(0), "{again:?}");
        let done = world.smidr().args(["build", "--target", "once"]).args(arguments).run();
        assert!(done.expect_code(1).err.contains("once:do_fetch_more"), "{done:?}");
        assert!(!done.err.contains("a second try"), "{done:?}");
    }
}

#[test]
fn memory_that_ran_out_gets_a_second_try_with_half() {
    let Some(world) = World::with_project("recovery::memory_that_ran_out_gets_a_second_try_with_half") else { return };
    world.append("local_conf: |\n  BB_NUMBER_THREADS = \"6\"\n  PARALLEL_MAKE = \"-j 9 -l 20\"\n");
    fails_once(
        &world,
        "do_compile_more",
        "'gcc: fatal error: Killed signal terminated program cc1plus'",
        "echo threads=${BB_NUMBER_THREADS} make=${PARALLEL_MAKE} >${TOPDIR}/had",
    );
    build(&world).expect_code(0).expect_err("with half as many tasks and compilers at once, since memory ran out");
    let had = world.smidr().args(["run", "--", "cat", "had"]).run();
    had.expect_code(0).expect_out("threads=3 make=-j 4\n");
}

#[test]
fn a_download_that_is_damaged_is_removed() {
    let Some(world) = World::with_project("recovery::a_download_that_is_damaged_is_removed") else { return };
    world.smidr().args(["run", "--", "true"]).run().expect_code(0);
    let downloads = world.smidr().args(["plan", "--json"]).run().json()["plan"]["folders"]["downloads"]
        .as_str()
        .expect("a path")
        .to_owned();
    let [damaged, whole] = ["a.tar.gz", "b.tar.gz"].map(|name| format!("{downloads}/{name}"));
    let put = || {
        fs::create_dir_all(&downloads).expect("a folder");
        fs::write(&damaged, "<html>404</html>").expect("a file");
        fs::write(format!("{damaged}.done"), "").expect("a file");
    };
    put();
    let says = |path: &str| format!("\"tar xz -f {path} failed\" 'tar: This does not look like a tar archive'");
    fails_once(
        &world,
        "do_unpack_more",
        &says(&damaged),
        "test ! -e ${DL_DIR}/a.tar.gz -a ! -e ${DL_DIR}/a.tar.gz.done",
    );
    build(&world).expect_code(0).expect_err("after the damaged download is removed");
    // One that is whole stays, whatever the log says of it.
    let mut gz = flate2::write::GzEncoder::new(fs::File::create(&whole).expect("a file"), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, b"text").expect("written");
    gz.finish().expect("written");
    world.smidr().args(["run", "--", "rm", "ran"]).run().expect_code(0);
    fails_once(&world, "do_unpack_more", &says(&whole), "true");
    let done = build(&world);
    assert!(!done.expect_code(1).err.contains("a second try"), "{done:?}");
    assert!(fs::exists(&whole).expect("looked at"));
}

#[test]
fn state_that_does_not_fit_is_cleaned() {
    let Some(world) = World::with_project("recovery::state_that_does_not_fit_is_cleaned") else { return };
    fails_once(&world, "do_stage", "'abort()ing pseudo client by server request'", "test ! -e ${WORKDIR}/left");
    let done = build(&world);
    done.expect_code(0).expect_err("a second try after the recipe is cleaned (once:do_stage)");
    let tasks = world.smidr().args(["logs", &done.build_id(), "--json"]).run();
    assert!(tasks.out.contains("do_clean"), "{}", tasks.out);
}

#[test]
fn a_mistake_gets_none_and_a_second_failure_is_the_last() {
    let Some(world) = World::with_project("recovery::a_mistake_gets_none_and_a_second_failure_is_the_last") else {
        return;
    };
    // Beside a failure that has a remedy stands one that has none.
    fails_once(&world, "do_fetch_more", "'fatal: unable to access: Could not resolve host: example.com'", "true");
    trouble::recipe(&world, "wrong", "    echo 'a.c:1:1: error: expected declaration'; exit 1");
    let done = world.smidr().args(["build", "--target", "once", "--target", "wrong", "--", "-k"]).run();
    assert!(!done.expect_code(1).err.contains("a second try"), "{done:?}");
    fails_once(
        &world,
        "do_fetch_more",
        "ran",
        "echo 'fatal: unable to access: Could not resolve host: example.com'; exit 1",
    );
    let done = build(&world);
    assert_eq!(done.expect_code(1).err.matches("a second try").count(), 1, "{done:?}");
    let record = recovered(&world);
    assert_eq!(record["helped"], false, "{record}");
}
