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

/// The server, if there is one; in CI there must be.
fn server(test: &str) -> Option<String> {
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must set DISPATCH_TEST_POSTGRES_URL"
        );
        eprintln!("skipped: {test}: DISPATCH_TEST_POSTGRES_URL is not set");
    }
    url
}

/// Runs the example with these brokers; it must greet.
async fn greets(brokers: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("dispatcher.yml");
    std::fs::write(&file, format!("version: 2\nbrokers:\n{brokers}")).expect("a file");

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

#[tokio::test]
async fn it_publishes_a_task_and_does_it() {
    let Some(url) = server("it_publishes_a_task_and_does_it") else {
        return;
    };
    let channel = format!("example {}", std::process::id());

    greets(&format!(
        "  pg_notify:\n    config: {{conninfo: \"{url}\"}}\n    channels: [\"{channel}\"]\n"
    ))
    .await;
}

#[tokio::test]
async fn one_key_makes_its_tasks_durable() {
    let Some(url) = server("one_key_makes_its_tasks_durable") else {
        return;
    };
    let schema = format!("example_{}", std::process::id());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .expect("a server");
    tokio::spawn(connection);

    greets(&format!(
        "  dispatch_py.broker:\n    config: {{conninfo: \"{url}\"}}\n    channels: [\"{schema}\"]\n    schema: {schema}\n"
    ))
    .await;

    let stored = format!("SELECT is_called FROM {schema}.dispatch_item_id_seq");
    let stored: bool = client.query_one(&stored, &[]).await.expect("tables").get(0);
    assert!(stored, "what it published was in the queue");
    let drop = format!("DROP SCHEMA {schema} CASCADE");
    client.batch_execute(&drop).await.expect("the schema is dropped");
}
