//! The example `pg_tasks`, run as it stands against a PostgreSQL server.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::timeout;

/// Where `cargo test` has put the example: beside the directory of the tests themselves.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a path");
    let built = tests
        .parent()
        .and_then(|deps| deps.parent())
        .expect("a target directory");
    let program = built.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not built: run all tests of this package, or `cargo build -p dispatch-examples --examples` first",
        program.display()
    );
    program
}

#[tokio::test]
async fn it_publishes_a_task_and_does_it() {
    let Ok(url) = std::env::var("DISPATCH_TEST_POSTGRES_URL") else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must set DISPATCH_TEST_POSTGRES_URL"
        );
        eprintln!("skipped: it_publishes_a_task_and_does_it: DISPATCH_TEST_POSTGRES_URL is not set");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("dispatcher.yml");
    let channel = format!("example {}", std::process::id());
    let text = format!(
        "version: 2\nbrokers:\n  pg_notify:\n    config: {{conninfo: \"{url}\"}}\n    channels: [\"{channel}\"]\n"
    );
    std::fs::write(&file, text).expect("a file");

    let mut command = Command::new(example("pg_tasks"));
    command
        .env("DISPATCHERD_CONFIG_FILE", &file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    let ended = timeout(Duration::from_secs(60), command.kill_on_drop(true).output()).await;

    let output = ended.expect("it ends").expect("it runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(out.starts_with("hello world!!\n"), "{out}{err}");
    assert!(
        out.contains("delivered: ") && !out.contains("delivered: 0"),
        "{out}{err}"
    );
}
