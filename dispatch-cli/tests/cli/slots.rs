//! Slots of a schedule in several processes.

use std::path::Path;

use rustix::process::Signal;

use crate::support::{Running, Worker, dir, until};

const PROCESSES: usize = 3;

fn config(worker: &Worker, schedule: &str) -> String {
    format!(
        "name = \"p\"\n[source]\ntype = \"schedule\"\n{schedule}\n[sink]\ntype = \"http\"\nurl = \"{}/\"\n[admin]\nlisten = \"off\"\n",
        worker.url
    )
}

/// Starts so many, the first before the others: it makes the tables.
async fn start(dir: &Path) -> Vec<Running> {
    let run = || Running::start(dir, &["run", "p.toml", "--log-level", "debug"]);
    let mut all = Vec::new();
    for _ in 0..PROCESSES {
        all.push(run());
        all[all.len() - 1].says("Running").await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_cancels_the_attempt_at_work_in_another_process() {
    let worker = Worker::counting().await;
    worker.hold();
    let text = config(&worker, "every = \"5s\"\noverlap = \"cancel\"");
    let dir = dir(&[("p.toml", &text)]);
    let mut processes = start(dir.path()).await;

    for slots in 1..=4 {
        until("the next slot's message", async || worker.count() >= slots).await;
        // The far side sees the earlier one's connection end.
        until("one at work", async || worker.open() == 1).await;
    }

    let ids = worker.ids();
    assert!(ids.values().all(|times| *times == 1), "{ids:?}");
    worker.let_go();
    for process in &mut processes {
        process.signal(Signal::TERM);
        assert_eq!(process.ends().await, 0, "{:#?}", process.log());
    }
    let said = |part: &str| {
        let lines = processes
            .iter()
            .map(|process| process.log().iter().filter(|line| line.contains(part)).count());
        lines.sum::<usize>()
    };
    assert_eq!((said("withdrawn by its source"), said("dead letter")), (3, 0));
}
