//! Input that nobody hoped for.

use std::io::Write as _;

use crate::support::{Running, Worker, dir, dispatch, fed, file_to, send, until};

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

/// A limit on the size of files stands for a full disk: to the store both are writes that fail.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_the_disk_was_full_is_worked_on_when_it_is_not() {
    // Nobody listens there: what is accepted waits in the store.
    let config = "name = \"p\"\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\n\
                  [sink]\ntype = \"http\"\nurl = \"http://127.0.0.1:9/work\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let (worker, dir) = (Worker::start().await, dir(&[("p.toml", config)]));
    let body = |n: usize| format!("{n:04}{}", "x".repeat(20_000));
    let mut limited = std::process::Command::new("bash");
    let binary = env!("CARGO_BIN_EXE_dispatch");
    limited
        .current_dir(dir.path())
        .args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f 600; exec '{binary}' run p.toml"),
        ])
        .stdin(std::process::Stdio::null());
    let mut running = Running::spawn(&mut limited);
    running.ready().await;
    let line: serde_json::Value = serde_json::from_str(&running.says("\"listening\"").await).unwrap();
    let url = format!("http://{}/", line["address"].as_str().unwrap());

    let (mut accepted, mut refused) = (Vec::new(), 0);
    for n in 0..200 {
        if refused == 2 {
            break;
        }
        match send("POST", &url, &[], &body(n)).await.0 {
            202 => accepted.push(n),
            status => {
                assert_eq!(status, 503, "who sends is told to send again");
                refused += 1;
            }
        }
    }
    assert!(!accepted.is_empty() && refused == 2, "{} accepted", accepted.len());
    running.kill();

    let there = format!("sink.url={}/work", worker.url);
    let mut running = Running::start(dir.path(), &["run", "p.toml", "--set", &there]);
    let came = || {
        let bodies = worker.bodies();
        accepted.iter().all(|n| bodies.iter().any(|one| *one == body(*n)))
    };
    until("all that was accepted", async || came()).await;
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}
