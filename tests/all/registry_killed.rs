//! A pull that is killed at any moment damages nothing, and the next one works.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use super::{
    registry::{import, push},
    registry_images::{Random, counts, digest, files, hex_of, layered, store},
    registry_server::Registry,
    support::World,
};

const KILLS: usize = 100;

/// Random for each run; set SMIDR_TEST_SEED to repeat one.
fn seed() -> u64 {
    let given = std::env::var("SMIDR_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.as_secs());
    given.unwrap_or_else(now)
}

/// Which blobs have been hashed already, by what they are on the disk.
#[derive(Default)]
struct Seen(BTreeMap<PathBuf, (u64, i64, i64)>);

impl Seen {
    /// What is visible is whole, whatever was killed.
    fn check(&mut self, world: &World, what: &str) {
        for name in World::names(&store(world, "blobs/sha256")).iter().filter(|name| !name.starts_with('.')) {
            let path = store(world, "blobs/sha256").join(name);
            let found = fs::metadata(&path).expect("a blob");
            let identity = (found.ino(), found.ctime(), found.ctime_nsec());
            if self.0.insert(path.clone(), identity) != Some(identity) {
                assert_eq!(hex_of(&fs::read(&path).expect("a blob")), *name, "{what}");
            }
        }
        for name in World::names(&store(world, "diffs")) {
            let folder = store(world, "diffs").join(&name);
            assert_eq!(World::names(&folder), ["fs", "layer.json", "unsettled.json"], "{what}");
            let files = walkdir::WalkDir::new(folder.join("fs")).into_iter().flatten();
            let sizes =
                files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.metadata().map(|it| it.len()));
            let sizes: Vec<u64> = sizes.map(|size| size.expect("a size")).collect();
            assert_eq!(sizes, [1_000_000; 8], "{what}: the layer {name}");
        }
    }
}

#[test]
fn a_hundred_killed_pulls_break_nothing() {
    let Some(registry) = Registry::start("registry_killed::a_hundred_killed_pulls_break_nothing") else { return };
    let seed = seed();
    let mut random = Random(seed);
    let world = World::new();
    let source = world.work.join("image.tar");
    let all: Vec<_> = (0..4).map(|at| files(&mut random, &format!("folder/{at}"), 8, 1_000_000)).collect();
    layered(&source, &all);
    let manifest = import(&world, &source, "image");
    push(&world, "image", &registry.at("image:1")).expect_code(0);
    world.smidr().args(["image", "rm", "image"]).run().expect_code(0);
    let reference = registry.at("image:1");
    let run = |args: &[&str]| world.smidr().arg("image").args(args).run();
    let pull = || world.smidr().args(["image", "pull", "--insecure", &reference, "--name", "image"]);
    let begun = Instant::now();
    assert_eq!(digest(&pull().run()), manifest);
    let usual = u64::try_from(begun.elapsed().as_micros()).expect("not that long");
    let _ = writeln!(std::io::stderr(), "killing {KILLS} pulls within {} ms, SMIDR_TEST_SEED={seed}", usual / 1000);
    run(&["rm", "image"]).expect_code(0);
    let (mut whole, mut half, mut parts, mut seen) = (0, 0, 0, Seen::default());
    for at in 0..KILLS {
        let what = format!("SMIDR_TEST_SEED={seed}, kill {at}");
        let mut running = pull().start();
        // A little longer than it takes, so that some are killed at their very end, or too late.
        std::thread::sleep(Duration::from_micros(random.number() % (usual * 9 / 8)));
        let _ = running.child.kill();
        let done = running.wait();
        assert!(matches!(done.code, None | Some(0)), "{what}: {done:?}");
        half += usize::from(counts(&world)[4] > 0);
        parts += usize::from(counts(&world)[3] > 0);
        seen.check(&world, &what);
        // The next process finds a consistent store, and leaves no partial files.
        let list = run(&["ls"]);
        assert!(list.code == Some(0) && counts(&world)[4] == 0, "{what}: {list:?}, {:?}", counts(&world));
        let has_image = list.out.contains("image");
        assert!(has_image || done.code.is_none(), "{what}: it said that it was done");
        if has_image {
            whole += 1;
            assert_eq!(run(&["verify"]).code, Some(0), "{what}");
            run(&["rm", "image"]).expect_code(0);
            assert_eq!(counts(&world), [0; 5], "{what}");
        } else if random.number().is_multiple_of(4) {
            // From the very beginning again.
            assert_eq!(run(&["prune"]).code, Some(0), "{what}");
            assert_eq!(counts(&world), [0; 5], "{what}");
        }
    }
    let _ = writeln!(
        std::io::stderr(),
        "{half} left something half-made, {parts} beginnings of blobs; {whole} images were whole"
    );
    assert!(half > KILLS / 10 && parts > KILLS / 10, "killed too early or too late: {half}, {parts}, {whole}");
    assert_eq!(digest(&pull().run()), manifest);
    run(&["verify"]).expect_code(0).expect_out("image  good");
    assert_eq!(counts(&world), [6, 4, 1, 0, 0]);
}
