use std::{os::unix::fs::PermissionsExt, time::Duration};

use dispatch_core::{Class, Sink as _};
use serde_json::json;
use tokio::time::Instant;

use super::{Rig, code, period, runs, until, within};

/// A worker of a few lines of shell.
fn shell(rig: impl FnOnce(&mut dispatch_sinks::process::ProcessSinkConfig), script: &str) -> Rig {
    Rig::new(|config| {
        config.command = ["sh", "-c", script].map(str::to_owned).into();
        rig(config);
    })
}

#[tokio::test]
async fn a_worker_in_any_language_will_do() {
    let rig = shell(
        |_| {},
        r#"echo '{"event": "ready"}' >&4
           while read -r line <&3; do
             [ "$line" = '"stop"' ] && break
             echo "{\"event\": \"done\", \"uuid\": \"x\", \"result\": [$DISPATCH_WORKER_ID]}" >&4
           done
           echo '{"event": "shutdown"}' >&4"#,
    );

    for _ in 0..3 {
        assert_eq!(rig.run("anything", json!([])).await.unwrap(), json!([0]));
    }
    rig.close().await;
}

#[tokio::test]
async fn workers_that_exit_at_their_start_make_the_sink_unavailable() {
    let rig = shell(|_| {}, "echo no licence found >&2; exit 5");
    let began = Instant::now();

    let error = rig.run("anything", json!([])).await.unwrap_err();

    assert_eq!((error.class(), code(&error)), (Class::Unavailable, "start"));
    assert!(
        error
            .to_string()
            .contains("exited with code 5 before it was ready: no licence found"),
        "{error}"
    );
    // Three starts with growing waits between them, and no storm.
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert!(rig.counted("dispatch_process_starts_total") < 5);
    rig.close().await;
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    for own in [true, false] {
        let rig = Rig::new(|config| {
            if own {
                config.command = vec!["no-such-program".into()];
            } else {
                config.python = "no-such-program".into();
            }
        });
        for error in [
            rig.sink.probe().await.unwrap_err(),
            rig.run("noop", json!([])).await.unwrap_err(),
        ] {
            assert_eq!((error.class(), code(&error)), (Class::Unavailable, "start"));
            assert!(error.to_string().contains("no-such-program"), "{error}");
        }
        rig.close().await;
    }
}

#[tokio::test]
async fn workers_run_where_the_pipelines_paths_start() {
    for base_dir in ["", "."] {
        let rig = Rig::at(base_dir.into(), |_| {});
        let task = json!({ "task": "os.getcwd" });
        assert_eq!(rig.send(task).await.unwrap(), json!(std::env::current_dir().unwrap()));
        rig.close().await;
    }
    let rig = Rig::new(|_| {});
    assert_eq!(
        rig.send(json!({ "task": "os.getcwd" })).await.unwrap(),
        json!(super::here())
    );
    rig.close().await;

    let rig = Rig::at("/no/such/directory".into(), |_| {});
    let error = rig.run("noop", json!([])).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/no/such/directory that workers run in does not exist"),
        "{error}"
    );
}

#[tokio::test]
async fn a_worker_that_never_becomes_ready_is_killed() {
    let rig = shell(|config| config.start_wait = period(200), "exec sleep 600");
    rig.sink.open().await.unwrap();
    until(async || rig.with_status("starting").await == 1).await;
    let pid = rig.workers().await[0]["pid"].as_i64().unwrap();

    let error = rig.run("anything", json!([])).await.unwrap_err();

    assert_eq!(code(&error), "start");
    assert!(!runs(pid));
    rig.close().await;
}

#[tokio::test]
async fn closing_does_not_wait_for_a_worker_that_starts() {
    let rig = shell(|_| {}, "exec sleep 600");
    rig.sink.open().await.unwrap();
    until(async || rig.with_status("starting").await == 1).await;
    let began = Instant::now();

    rig.close().await;

    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_zygote_imports_first_and_says_what_it_cannot() {
    let rig = Rig::new(|config| config.preload = vec!["no_such_module".into(), "work".into()]);

    assert_eq!(rig.run("echo", json!([1])).await.unwrap(), json!([[1], {}]));
    rig.close().await;
}

#[tokio::test]
async fn a_zygote_that_cannot_start_workers_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let python = directory.path().join("python");
    std::fs::write(&python, "#!/bin/sh\necho no python today >&2; exit 1\n").unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
    let rig = Rig::new(|config| config.python = python.to_string_lossy().into_owned());

    let error = rig.run("noop", json!([])).await.unwrap_err();

    assert_eq!((error.class(), code(&error)), (Class::Unavailable, "start"));
    assert!(error.to_string().contains("no python today"), "{error}");
    rig.close().await;
}

#[tokio::test]
async fn a_sink_that_was_never_used_closes() {
    let rig = Rig::new(|_| {});
    within(rig.sink.close()).await.unwrap();
}
