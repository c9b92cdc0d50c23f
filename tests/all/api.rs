//! The API's generated code is that of its `.proto`.

use std::{env, fs, path::Path};

use prost::Message as _;

const PROTO: &str = "src/rpc/smidr.proto";
const FOLDER: &str = "src/rpc/generated";

#[test]
fn the_generated_code_is_that_of_the_proto() {
    let root = env::var_os("INSTA_WORKSPACE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&root);
    let made = tempfile::tempdir().expect("a temporary folder");
    let set = protox::compile([root.join(PROTO)], [root.join("src/rpc")]).expect("a good .proto");
    let mut described = set.clone();
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(made.path().join("smidr.bin"), described.encode_to_vec()).expect("written");
    tonic_prost_build::configure()
        .out_dir(made.path())
        .bytes(".smidr.v1.Chunk")
        .extern_path(".smidr.v1.LogLines", "crate::rpc::batch::LogLines")
        .extern_path(".smidr.v1.Records", "crate::rpc::batch::Records")
        .compile_fds(set)
        .expect("generated code");
    for name in ["smidr.v1.rs", "smidr.bin"] {
        let (new, old) = (fs::read(made.path().join(name)).expect("made"), root.join(FOLDER).join(name));
        if env::var_os("SMIDR_UPDATE_API").is_some() {
            fs::write(&old, &new).expect("written");
        }
        let is_same = fs::read(&old).is_ok_and(|old| old == new);
        assert!(is_same, "{FOLDER}/{name} is not what {PROTO} gives:  SMIDR_UPDATE_API=1 cargo test api::");
    }
}
