//! The code that is checked in is what the file of messages gives. After a change of that file:
//! `DISPATCH_WRITE_GENERATED=1 cargo test -p dispatch-monitoring generated`.

use std::{fs, path::Path};

#[test]
fn the_code_is_what_the_file_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = root.join("src/generated");
    let written = std::env::var_os("DISPATCH_WRITE_GENERATED").is_some();
    let scratch = tempfile::tempdir().unwrap();
    let target = if written { generated.as_path() } else { scratch.path() };

    // No compiler of somebody else's is needed: protox reads the file.
    let files = protox::compile(["sqsd.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(target)
        .build_transport(false)
        .compile_fds(files.clone())
        .unwrap();
    fs::write(target.join("sqsd.bin"), prost::Message::encode_to_vec(&files)).unwrap();

    for file in ["sqsd.rs", "sqsd.bin"] {
        let (ours, fresh) = (
            fs::read(generated.join(file)).unwrap(),
            fs::read(target.join(file)).unwrap(),
        );
        assert!(
            ours == fresh,
            "src/generated/{file} is not what proto/sqsd.proto gives: see this test's page"
        );
    }
}
