//! What the README of sqsd shows, done with ours: its file and its two command lines, against a real SQS server.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    sqsd::{SEED, forget_ours},
    sqsd_server::{Queue, scoreboard},
    support::{Running, Worker, dir, get, until},
};

/// One of the README's command lines in `dir`, where `sqsd` is this binary. To the shell's environment it adds what is
/// no part of the file: credentials, and a free port for the scoreboard, whose own may be taken on this machine.
fn shell(dir: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(dir).env("HOME", dir);
    forget_ours(&mut command);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", dir.join("bin").display()))
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "canary-5")
        .env("MONITORING_PORT", "0");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_file_runs_word_for_word_but_for_its_two_urls() {
    // `source` alone would not hand the variables on to a process.
    for line in ["exec sqsd -e .env", "set -a; . ./.env; exec sqsd"] {
        let Some(queue) = Queue::new("readme").await else {
            return;
        };
        let worker = Worker::start().await;
        let file = SEED
            .replace("http://local.example.com/", &format!("{}/", worker.url))
            .replace("https://queue.amazonaws.com/80398EXAMPLE/MyQueue", &queue.url);
        let changed = file.lines().zip(SEED.lines()).filter(|(ours, theirs)| ours != theirs);
        assert_eq!((changed.count(), file.lines().count()), (2, SEED.lines().count()));
        let dir = dir(&[(".env", &file)]);
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_dispatch"), dir.path().join("bin/sqsd")).unwrap();

        let mut running = Running::spawn(&mut shell(dir.path(), line));
        let board = scoreboard(&running).await;
        for number in 0..5 {
            queue.send(&format!("{{\"n\":{number}}}"), &[]).await;
        }
        until("all is worked on", async || worker.count() == 5).await;
        until("all is deleted", async || queue.depth().await == (0, 0)).await;
        let stats: Value = serde_json::from_str(&get(&format!("{board}/worker/stats")).await.1).unwrap();
        running.signal(Signal::TERM);

        assert_eq!(running.ends().await, 0, "{line}: {:#?}", running.log());
        assert_eq!(
            (&stats["max_worker"], &stats["total_failed"]),
            (&1.into(), &0.into()),
            "{line}: {stats}"
        );
        assert!(
            worker.ids().values().all(|times| *times == 1),
            "{line}: {:?}",
            worker.ids()
        );
        assert!(
            worker.paths().iter().all(|path| path == "/setup/your/worker/path"),
            "{line}: {:?}",
            worker.paths()
        );
        let mut bodies = worker.bodies();
        bodies.sort();
        assert_eq!(bodies[4], "{\"n\":4}", "{line}");
        // The level is `info`, nothing is to be warned of, and no secret is told.
        let log = running.log().join("\n");
        assert!(
            !["DEBUG", "WARN", "ERROR", "warning", "canary-5"]
                .iter()
                .any(|word| log.contains(word)),
            "{line}: {log}"
        );
    }
}
