//! Slots of a schedule in several processes, which die or have the earlier message at work.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    kill::next,
    support::{Running, Worker, dir, tell, until},
};

const PROCESSES: usize = 3;
const KILLS: usize = 12;
const SEED: u64 = 0x510f;

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

/// The second that a message's slot is, since 1970.
fn second(id: &str) -> u64 {
    let slot = id.strip_prefix("p:source@").unwrap();
    let time = humantime::parse_rfc3339(slot).unwrap();
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_slot_fires_while_processes_die_as_they_fire() {
    let worker = Worker::counting().await;
    let text = config(&worker, "every = \"1s\"\noverlap = \"allow\"");
    let dir = dir(&[("p.toml", &text)]);
    let mut processes = start(dir.path()).await;
    until("the first slot", async || worker.count() > 0).await;
    let (mut state, mut dead) = (SEED, Vec::new());

    for _ in 0..KILLS {
        // Just after a slot has begun, while it is fired.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ahead = Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into());
        sleep(ahead + Duration::from_micros(next(&mut state) as u64 % 15_000)).await;
        let mut killed = processes.remove(next(&mut state) % PROCESSES);
        killed.kill();
        dead.push(killed);
        processes.push(Running::start(dir.path(), &["run", "p.toml", "--log-level", "debug"]));
        processes[PROCESSES - 1].says("Running").await;
    }
    let last = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    // What a process that died had claimed comes when its lease of 30 s has run out.
    let begun = tokio::time::Instant::now();
    let seen = || worker.ids().keys().map(|id| second(id)).collect::<Vec<_>>();
    let first = seen().into_iter().min().unwrap();
    while !(first..=last).all(|slot| seen().contains(&slot)) && begun.elapsed() < Duration::from_secs(45) {
        sleep(Duration::from_millis(100)).await;
    }
    for process in &mut processes {
        process.signal(Signal::TERM);
        assert_eq!(process.ends().await, 0, "{:#?}", process.log());
    }

    let mut fired = HashMap::<u64, u32>::new();
    for process in dead.iter().chain(&processes) {
        for line in process.log().iter().filter(|line| line.contains("\"slot fired\"")) {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            *fired.entry(second(line["id"].as_str().unwrap())).or_default() += 1;
        }
    }
    let posted = seen();
    let lost = (first..=last).filter(|slot| !posted.contains(slot)).count();
    let again: u32 = fired.values().map(|times| times - 1).sum();
    let duplicated: u32 = worker.ids().values().map(|times| times - 1).sum();
    tell(&format!(
        "schedule with {KILLS} kills: slots={} lost={lost} fired_again={again} duplicated={duplicated} recover_ms_last={}",
        last - first + 1,
        begun.elapsed().as_millis()
    ));
    assert_eq!(lost, 0, "{posted:?}");
    // A process that dies between the message and its mark leaves a slot that another fires again, and one that dies at
    // work a message that comes again.
    assert!(again as usize <= KILLS && duplicated as usize <= 2 * KILLS, "{fired:?}");
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
