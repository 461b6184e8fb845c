//! Input that nobody hoped for.

use std::io::Write as _;

use crate::support::{Worker, dir, dispatch, fed, file_to};

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_reach_the_worker_as_they_are() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &file_to(&worker))]);
    std::fs::write(dir.path().join("in.txt"), b"a\0b\n\xff\xfe\n").unwrap();

    assert_eq!(dispatch(dir.path(), &["run", "p.toml"]).code, 0);

    let mut bodies = worker.bodies();
    bodies.sort();
    assert_eq!(bodies, [&b"a\0b"[..], b"\xff\xfe"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_100_mb_is_kept_aside_and_the_rest_goes_on() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &file_to(&worker))]);
    let mut file = std::fs::File::create(dir.path().join("in.txt")).unwrap();
    file.write_all(b"before\n").unwrap();
    for _ in 0..100 {
        file.write_all(&[b'x'; 1_000_000]).unwrap();
    }
    file.write_all(b"\nafter\n").unwrap();
    drop(file);

    let done = dispatch(dir.path(), &["run", "p.toml"]);

    assert_eq!(done.code, 0, "{done:?}");
    let mut bodies = worker.bodies();
    bodies.sort();
    assert_eq!(bodies, [&b"after"[..], b"before"]);
    let kept = dispatch(
        dir.path(),
        &["dlq", "list", "-c", "p.toml", "--reason", "rejected", "--json"],
    )
    .json();
    assert_eq!(kept["matched"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_is_kept_aside_where_json_is_needed() {
    let worker = Worker::start().await;
    let config = file_to(&worker).replace(
        "type = \"file\"\npaths = [\"in.txt\"]",
        "type = \"stdin\"\nformat = \"ndjson\"",
    );
    let dir = dir(&[("p.toml", &config)]);

    let done = fed(
        dir.path(),
        &["run", "p.toml", "--json"],
        b"{\"n\":1}\nno json\n{\"n\":2}\n",
    );

    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.json()["pipelines"][0]["delivered"], 2);
    let kept = dispatch(dir.path(), &["dlq", "list", "-c", "p.toml", "--json"]).json();
    assert_eq!(
        (&kept["matched"], &kept["letters"][0]["payload"]),
        (&1.into(), &"no json".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_file_is_missing_ends_and_says_what_to_do() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &file_to(&worker))]);

    let done = dispatch(dir.path(), &["run", "p.toml"]);

    assert_eq!(done.code, 1, "{done:?}");
    for part in ["source: there is no file in.txt", "would look again until it is there"] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
}
