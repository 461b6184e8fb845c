//! Standard output whose reader has closed it, as `dispatch run p.toml | head -1` has.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, Write as _},
    path::Path,
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Done, Running, command, cut_off, dir, dispatch, get, send, until};

/// More than a pipe holds, a line of 1 KiB for each number.
const LINES: usize = 2_000;

fn pipeline(source: &str) -> String {
    format!("name = \"p\"\n[source]\n{source}\n[sink]\ntype = \"stdout\"\n[admin]\nlisten = \"127.0.0.1:0\"\n")
}

fn line(n: usize) -> String {
    format!("{n:04}{}\n", "x".repeat(1_019))
}

/// The numbers of the lines that were printed.
fn numbers(out: &[u8]) -> BTreeSet<usize> {
    let number = |line: String| line[..4].parse().unwrap();
    out.lines().map(|line| number(line.unwrap())).collect()
}

/// How many messages the run says it has printed; that it failed, and why, is looked at.
#[track_caller]
fn printed(done: &Done) -> usize {
    assert_eq!(done.code, 1, "{done:?}");
    let said = done.err.lines().filter(|line| line.contains("sink is gone"));
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 1, "{done:?}");
    assert!(
        said[0].contains("standard output takes no more: Broken pipe"),
        "{said:?}"
    );
    let summary = done.err.lines().find(|line| line.contains("\"summary\"")).unwrap();
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["finished"], false);
    usize::try_from(summary["delivered"].as_u64().unwrap()).unwrap()
}

/// Runs again with a reader that reads to the end.
fn rest(dir: &Path) -> BTreeSet<usize> {
    let done = dispatch(dir, &["run", "p.toml"]);
    assert_eq!(done.code, 0, "{done:?}");
    numbers(done.out.as_bytes())
}

#[test]
fn a_run_over_files_ends_and_the_next_one_goes_on_where_its_reader_left() {
    let input: String = (0..LINES).map(line).collect();
    let dir = dir(&[
        ("in.txt", &input),
        ("p.toml", &pipeline("type = \"file\"\npaths = [\"in.txt\"]")),
    ]);

    let first = cut_off(command(dir.path(), &["run", "p.toml"]).stdin(Stdio::null()), 1_024);

    let printed = printed(&first);
    let rest = rest(dir.path());
    let begins = *rest.first().unwrap();
    assert!(
        printed < LINES && begins <= printed,
        "{printed} printed, then from {begins}"
    );
    assert_eq!(rest, (begins..LINES).collect());
}

/// Its input never ends, and standard input cannot be read again.
#[test]
fn a_run_over_standard_input_ends_and_keeps_what_it_has_read() {
    let dir = dir(&[("p.toml", &pipeline("type = \"stdin\""))]);
    let (ours, theirs) = std::io::pipe().map(|(theirs, ours)| (ours, theirs)).unwrap();
    let mut run = command(dir.path(), &["run", "p.toml"]);
    run.stdin(theirs);
    let writer = std::thread::spawn(move || {
        let mut ours = ours;
        // Until nobody reads: a write to a process that has ended is refused.
        (0..9_999)
            .take_while(|n| ours.write_all(line(*n).as_bytes()).is_ok())
            .count()
    });

    let first = cut_off(&mut run, 1_024);

    drop(run);
    let printed = printed(&first);
    let written = writer.join().unwrap();
    assert!(written < 9_999, "it read on");
    let rest = rest(dir.path());
    let end = rest.last().unwrap() + 1;
    let missing = (0..end).filter(|n| !rest.contains(n)).count();
    assert!(
        !rest.is_empty() && missing <= printed,
        "{printed} printed, {missing} missing"
    );
}

/// Nothing is printed at all: the reader goes before the first message comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_over_a_queue_ends_and_its_messages_stay_in_it() {
    let dir = dir(&[("p.toml", &pipeline("type = \"queue\"\nqueue = \"work\""))]);
    let payloads: Vec<_> = (0..10).map(|n| format!("{n:04}")).collect();
    let mut args = vec!["send", "p.toml"];
    payloads.iter().for_each(|payload| args.extend(["-p", payload]));
    let sent = dispatch(dir.path(), &args);
    assert_eq!(sent.code, 0, "{sent:?}");

    let first = cut_off(command(dir.path(), &["run", "p.toml"]).stdin(Stdio::null()), 0);

    assert_eq!(printed(&first), 0, "{first:?}");
    let mut second = Running::start(dir.path(), &["run", "p.toml"]);
    let status = format!("{}/v1/status", second.admin().await);
    until("all are printed", async || {
        get(&status).await.1.contains("\"delivered\":10")
    })
    .await;
    second.signal(Signal::TERM);
    assert_eq!(second.ends().await, 0, "{:?}", second.log());
    assert_eq!(numbers(second.out().as_bytes()), (0..10).collect());
}

/// The other pipeline of the process ends with it; nobody who waits for an answer waits in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_waits_is_told_to_send_again() {
    let answering = pipeline("type = \"http\"\nlisten = \"127.0.0.1:0\"\nmode = \"sync\"");
    let other = pipeline("type = \"queue\"\nqueue = \"work\"").replace("\"p\"", "\"q\"");
    let dir = dir(&[("p.toml", &answering), ("q.toml", &other)]);
    let mut running = Running::unread(command(dir.path(), &["run", "p.toml", "q.toml"]).stdin(Stdio::null()));
    let line: Value = serde_json::from_str(&running.says("\"listening\"").await).unwrap();
    running.ready().await;

    let url = format!("http://{}/", line["address"].as_str().unwrap());
    let (status, body) = send("POST", &url, &[], "x").await;

    assert_eq!(status, 503, "{body}");
    assert_eq!(running.ends().await, 1, "{:#?}", running.log());
    let summaries = running.log();
    let summaries = summaries.iter().filter(|line| line.contains("\"summary\""));
    assert_eq!(summaries.count(), 2);
}
