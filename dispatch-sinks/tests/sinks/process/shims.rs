//! dispatcherd's own worker, driven by the pool. `DISPATCH_TEST_PYTHON` names a Python that has the package.

use std::{io::Write as _, os::unix::fs::PermissionsExt};

use dispatch_core::{Class, Message};
use dispatch_sinks::process::{ProcessSinkConfig, Shim};
use serde_json::json;

use super::{Rig, code, exists, period, until};

/// A Python with dispatcherd, in whose processes the tests' tasks know it.
fn python() -> Option<(tempfile::TempDir, String)> {
    let Ok(python) = std::env::var("DISPATCH_TEST_PYTHON") else {
        assert!(std::env::var("CI").is_err(), "DISPATCH_TEST_PYTHON is not set");
        // Not through the test's captured output.
        writeln!(
            std::io::stderr(),
            "skipped: dispatcherd's worker, DISPATCH_TEST_PYTHON is not set"
        )
        .unwrap();
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("python");
    std::fs::write(
        &path,
        format!("#!/bin/sh\nDISPATCH_TEST_SHIM=dispatcherd exec '{python}' \"$@\"\n"),
    )
    .unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    Some((directory, path.to_string_lossy().into_owned()))
}

fn dispatcherd(python: &str, config: &mut ProcessSinkConfig) {
    config.shim = Some(Shim::Dispatcherd);
    config.python = python.to_owned();
}

#[tokio::test]
async fn dispatcherds_worker_does_what_ours_does() {
    let Some((_directory, python)) = python() else { return };
    let rig = Rig::new(|config| dispatcherd(&python, config));

    assert_eq!(rig.run("echo", json!([1])).await.unwrap(), json!([[1], {}]));
    let error = rig.run("boom", json!(["x"])).await.unwrap_err();
    assert_eq!((error.class(), code(&error)), (Class::Permanent, "task_failed"));
    assert!(error.to_string().contains("ValueError: x"), "{error}");
    let task = json!({ "task": "work.sleep", "args": [rig.path("at")], "timeout": 0.2 });
    assert_eq!(code(&rig.send(task).await.unwrap_err()), "cancelled");
    rig.commands.on("ctl", |message| async move { message });
    let task = json!({ "task": "work.ask", "bind": true, "args": ["alive"], "uuid": "x" });
    assert_eq!(rig.send(task).await.unwrap(), json!({ "control": "alive" }));
    let task = json!({ "task": "work.uuid", "bind": true, "uuid": "x" });
    assert_eq!(rig.send(task).await.unwrap(), json!(["x", 0]));
    assert_eq!(
        code(&rig.run("exit_with", json!([3])).await.unwrap_err()),
        "worker_lost"
    );
    assert_eq!(rig.run("leave", json!([])).await.unwrap(), json!("bye"));
    rig.run("noop", json!([])).await.unwrap();
    rig.close().await;
}

#[tokio::test]
async fn dispatcherds_worker_holds_a_task_and_gives_it_back() {
    let Some((_directory, python)) = python() else { return };
    let rig = Rig::new(|config| dispatcherd(&python, config));
    let long = rig.start("sleep", json!([rig.path("at")]));
    exists(&rig.path("at")).await;
    let held = Message::new(json!({ "task": "work.echo", "uuid": "held" }).to_string());
    let held = rig.start_message(held);
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 2).await;

    rig.ask("cancel", json!({ "uuid": "held" })).await;

    assert_eq!(code(&held.await.unwrap().unwrap_err()), "cancelled");
    assert!(!long.is_finished());
    rig.ask("cancel", json!({ "task": "work.sleep" })).await;
    assert_eq!(code(&long.await.unwrap().unwrap_err()), "cancelled");
    rig.close().await;
}

#[tokio::test]
async fn a_worker_class_is_called_back() {
    for real in [false, true] {
        let python = if real { python() } else { None };
        if real && python.is_none() {
            return;
        }
        let rig = Rig::new(|config| {
            match &python {
                Some((_, python)) => dispatcherd(python, config),
                None => config.shim = Some(Shim::Standalone),
            }
            config.worker_class = Some("work.Hooked".into());
            config.idle_timeout = period(50);
            config.start_method = Some(dispatch_sinks::process::StartMethod::Spawn);
            let path = std::env::temp_dir().join(format!("dispatch-hooks-{}-{real}", std::process::id()));
            config.worker_kwargs = json!({ "path": path }).as_object().unwrap().clone();
        });
        let path = std::env::temp_dir().join(format!("dispatch-hooks-{}-{real}", std::process::id()));
        let words = || std::fs::read_to_string(&path).unwrap_or_default();

        rig.run("noop", json!([])).await.unwrap();
        until(async || words().contains("on_idle")).await;
        rig.close().await;

        let words = words();
        std::fs::remove_file(&path).unwrap();
        for word in [
            "on_start\n",
            "pre_task work.noop\n",
            "post_task\n",
            "on_idle\n",
            "on_shutdown\n",
        ] {
            assert!(words.contains(word), "{real} {word}: {words}");
        }
    }
}
