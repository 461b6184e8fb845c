//! Worker processes under the binary: what is left of them when it ends, one way or the other.

use std::{path::Path, time::Duration};

use rustix::process::Signal;
use tokio::time::Instant;

use crate::support::{Running, command, dir, until};

const CONFIG: &str = "name = \"p\"\nprefetch = 8\n[source]\ntype = \"file\"\npaths = [\"tasks.ndjson\"]\n\
    [layers]\nconcurrency = 8\n[sink]\ntype = \"process\"\nmin = 3\nmax = 3\n[store]\ntype = \"memory\"\n[admin]\nlisten = \"off\"\n";

const WORK: &str = "
import os, time
def note():
    with open('pids', 'a') as file:
        file.write('%d\\n' % os.getpid())
def work(seconds):
    note()
    time.sleep(seconds)
    open('done', 'a').close()
";

fn pids(dir: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(dir.join("pids")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn tasks(count: usize, seconds: f64) -> String {
    format!("{{\"task\": \"work.work\", \"args\": [{seconds}]}}\n").repeat(count)
}

#[tokio::test]
async fn a_signal_drains_and_leaves_no_worker() {
    let dir = dir(&[("p.toml", CONFIG), ("work.py", WORK), ("tasks.ndjson", &tasks(3, 0.5))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml", "-q"]);
    until("tasks at work", async || pids(dir.path()).len() >= 3).await;

    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert!(dir.path().join("done").exists(), "tasks at work were left to end");
    assert!(pids(dir.path()).into_iter().all(|pid| !runs(pid)));
}

#[tokio::test]
async fn workers_do_not_outlive_a_killed_dispatch() {
    let dir = dir(&[("p.toml", CONFIG), ("work.py", WORK), ("tasks.ndjson", &tasks(3, 1.0))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml", "-q"]);
    until("tasks at work", async || pids(dir.path()).len() >= 3).await;
    let workers = pids(dir.path());
    let began = Instant::now();

    running.kill();

    until("the end of all workers", async || workers.iter().all(|pid| !runs(*pid))).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_killed_dispatch_leaves_is_removed_by_the_next() {
    let dir = dir(&[("p.toml", CONFIG), ("work.py", WORK), ("tasks.ndjson", &tasks(3, 0.1))]);
    let temporary = dir.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let start = || Running::spawn(command(dir.path(), &["run", "p.toml", "-q"]).env("TMPDIR", &temporary));
    let left = || {
        let entries = std::fs::read_dir(&temporary)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.collect::<Vec<_>>()
    };
    let mut killed = start();
    until("tasks at work", async || pids(dir.path()).len() >= 3).await;
    killed.kill();
    let before = left();
    assert_eq!(before.len(), 1, "{before:?}");

    let mut next = start();
    until("tasks of the next at work", async || pids(dir.path()).len() >= 6).await;

    assert!(!before[0].exists(), "{:?}", left());
    next.signal(Signal::TERM);
    assert_eq!(next.ends().await, 0, "{:#?}", next.log());
    assert!(left().is_empty(), "{:?}", left());
}
