use std::time::Duration;

use dispatch_core::Class;
use dispatch_sinks::process::OnCrash;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use super::{Rig, code, exists, kill, spawned, until};

#[tokio::test]
async fn a_worker_that_dies_is_seen_at_once_and_replaced() {
    for spawn in [false, true] {
        let rig = Rig::new(|config| {
            if spawn {
                spawned(config);
            }
        });
        let lost = rig.start("sleep", json!([rig.path("at")]));
        exists(&rig.path("at")).await;
        let behind = rig.start("echo", json!(["behind"]));
        until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 2).await;
        let pid = rig.workers().await[0]["pid"].as_i64().unwrap();

        let began = Instant::now();
        kill(pid, Signal::KILL);
        let error = lost.await.unwrap().unwrap_err();
        let seen = began.elapsed();

        assert!(seen < Duration::from_secs(1), "{seen:?}");
        assert_eq!((error.class(), code(&error)), (Class::Permanent, "worker_lost"));
        assert!(error.to_string().contains("signal 9 (SIGKILL"), "{error}");
        // What had not begun is done by another, as if nothing had been.
        assert_eq!(behind.await.unwrap().unwrap(), json!([["behind"], {}]));
        assert_eq!(rig.workers().await[0]["status"], "error");
        rig.close().await;
    }
}

#[tokio::test]
async fn how_a_worker_died_and_its_last_words_are_in_the_error() {
    let rig = Rig::new(|config| config.on_crash = OnCrash::Retry);
    rig.run("say", json!(["on my way out"])).await.unwrap();

    let error = rig.run("exit_with", json!([3])).await.unwrap_err();

    assert_eq!(error.class(), Class::Retry);
    assert!(
        error
            .to_string()
            .starts_with("worker 0 exited with code 3 while task work.exit_with was at work: on my way out"),
        "{error}"
    );
    let error = rig.run("kill_self", json!([11])).await.unwrap_err();
    assert!(error.to_string().contains("signal 11 (SIGSEGV)"), "{error}");
    assert_eq!(rig.counted("dispatch_process_crashes_total"), 2);
    rig.close().await;
}

#[tokio::test]
async fn a_process_left_behind_does_not_hide_the_death() {
    let rig = Rig::new(|_| {});
    let child = rig.path("child");
    let began = Instant::now();

    let error = rig.run("leave_child", json!([child])).await.unwrap_err();

    assert_eq!(code(&error), "worker_lost");
    assert!(began.elapsed() < Duration::from_secs(5));
    rig.run("noop", json!([])).await.unwrap();
    rig.close().await;
    kill(std::fs::read_to_string(child).unwrap().parse().unwrap(), Signal::KILL);
}

#[tokio::test]
async fn the_zygote_is_replaced_with_its_workers_and_no_task_is_lost() {
    let rig = Rig::new(|config| config.max = 2);
    let pid = rig.run("pid", json!([])).await.unwrap().as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let zygote: i64 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let go = rig.path("go");
    let held = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;

    kill(zygote, Signal::KILL);
    until(async || rig.with_status("stopping").await == 1).await;
    let next = rig.run("pid", json!([])).await.unwrap().as_i64().unwrap();
    super::touch(&go);

    assert_ne!(next, pid);
    assert_eq!(held.await.unwrap().unwrap(), pid, "the task at work is left to end");
    until(async || rig.with_status("retired").await == 1).await;
    rig.close().await;
}

#[tokio::test]
async fn whatever_a_worker_writes_its_task_is_done() {
    let rig = Rig::new(|_| {});

    assert_eq!(rig.run("binary", json!([])).await.unwrap(), json!("written"));
    assert_eq!(rig.run("garbage", json!([])).await.unwrap(), json!("still here"));
    assert_eq!(rig.run("flood", json!([50_000])).await.unwrap(), json!(50_000));
    assert_eq!(rig.ask("pool", json!({})).await["next_worker_id"], 1);
    rig.close().await;
}
