//! SQS to HTTP, from a fake SQS over TCP to a worker over TCP, each on a thread of its own: a bare loop of the same SDK
//! and hyper (receive 10, POST all, delete the batch), then the pipeline, then npm's sqs-consumer, in turn, so that
//! each ratio is of one run.
//!
//! `scripts/bench-sqs` prints it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

mod bare;
mod consumer;
mod measured;
mod ours;
mod place;

use std::time::Duration;

use bare::bare;
use consumer::sqs_consumer;
use ours::{Beside, ours, with_visibility};
use place::Place;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bare and ours in turn, `rounds` times; the first bare runs choose how many fetchers do best, which is returned.
fn compare(name: &str, place: &Place, count: usize, rounds: usize, shapes: &[(usize, usize)]) -> (usize, usize) {
    // Connections, allocators, branch predictors.
    bare(place, count / 10, 8, 8, false);
    let tried = shapes
        .iter()
        .map(|shape| (*shape, bare(place, count, shape.0, shape.1, false).rate(count)));
    let (best, _) = tried
        .inspect(|((fetchers, batch), rate)| println!("{name}: bare, {fetchers} fetchers of {batch}: {rate:.0}/s"))
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .unwrap();
    let (fetchers, batch) = best;
    let (mut rates, mut cpus, mut last) = (Vec::new(), Vec::new(), [0.0; 3]);
    for round in 1..=rounds {
        let post = ours(place, count, fetchers, fetchers * batch, Beside::Nothing);
        let plain = ours(place, count, fetchers, fetchers * batch, Beside::Headers);
        let raw = bare(place, count, fetchers, batch, false);
        let whole = bare(place, count, fetchers, batch, true);
        let locked = ours(place, count, fetchers, fetchers * batch, Beside::Locker);
        println!(
            "{name}: round {round}: bare {:.0}/s {:.1} µs, with attributes {:.0}/s {:.1} µs, pipeline {:.0}/s {:.1} µs, with sqsd's headers {:.0}/s {:.1} µs, with the locker {:.0}/s {:.1} µs",
            raw.rate(count),
            raw.cpu,
            whole.rate(count),
            whole.cpu,
            post.rate(count),
            post.cpu,
            plain.rate(count),
            plain.cpu,
            locked.rate(count),
            locked.cpu,
        );
        rates.push([
            raw.seconds / post.seconds,
            raw.seconds / plain.seconds,
            raw.seconds / locked.seconds,
            whole.seconds / plain.seconds,
        ]);
        cpus.push([post.cpu / raw.cpu, plain.cpu / raw.cpu, plain.cpu / whole.cpu]);
        last = plain.requests;
    }
    let [receives, deletes, changes] = last;
    println!(
        "{name}: for each message {receives:.3} receives, {deletes:.3} deletes, {changes:.3} changes of visibility"
    );
    println!(
        "{name}: ratio {:.2}, with sqsd's headers {:.2}, with the locker {:.2}, with the headers to the loop that asks for \
         attributes {:.2}; processor time for each message {:.2} times the loop's, with the headers {:.2} times, and {:.2} \
         times that of the other",
        median(rates.iter().map(|ratio| ratio[0])),
        median(rates.iter().map(|ratio| ratio[1])),
        median(rates.iter().map(|ratio| ratio[2])),
        median(rates.iter().map(|ratio| ratio[3])),
        median(cpus.iter().map(|ratio| ratio[0])),
        median(cpus.iter().map(|ratio| ratio[1])),
        median(cpus.iter().map(|ratio| ratio[2])),
    );
    best
}

fn main() {
    let (count, rounds) = (number("BENCH_MESSAGES", 30_000), number("BENCH_ROUNDS", 5));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let fast = Place::new(Duration::ZERO);
    if only.is_empty() || only == "fast" {
        let (fetchers, batch) = compare("worker at once", &fast, count, rounds, &[(4, 10), (8, 10), (16, 10)]);
        for (name, mode, part) in [
            ("default", &["default"][..], 20),
            ("batched, 8 consumers", &["batched", "8"], 4),
        ] {
            // Ours in turn with it, so that whatever else is at work is at work for both.
            let runs: Option<Vec<_>> = (0..3)
                .map(|_| {
                    let rate = sqs_consumer(&fast, count / part, mode)?;
                    let own = ours(&fast, count, fetchers, fetchers * batch, Beside::Headers).rate(count);
                    println!("sqs-consumer, {name}: {rate:.0}/s, pipeline {own:.0}/s");
                    Some(own / rate)
                })
                .collect();
            match runs {
                Some(ratios) => println!(
                    "sqs-consumer, {name}: the pipeline does {:.1} times that",
                    median(ratios)
                ),
                None => println!("sqs-consumer, {name}: not here (scripts/bench-sqs installs it)"),
            }
        }
    }
    if only.is_empty() || only == "1ms" {
        let slow = Place::new(Duration::from_millis(1));
        compare(
            "worker of 1 ms, 64 at once",
            &slow,
            count,
            rounds,
            &[(6, 10), (7, 9), (8, 8)],
        );
    }
    if only.is_empty() || only == "slow" {
        // Each post is counted, and a second one of any fails the assertion.
        let place = Place::new(Duration::from_secs(5));
        let took = with_visibility(&place, 10_000, 16, 1_000, Beside::Headers, 2);
        println!(
            "10000 messages of 5 s each, with a visibility of 2 s: repeated posts 0, {:.0} s",
            took.seconds
        );
    }
    // For a profiler.
    if only == "bare" {
        println!("{:?}", bare(&fast, count, 8, 10, false));
    }
    let profiled = [
        ("post", Beside::Nothing),
        ("pipeline", Beside::Headers),
        ("locker", Beside::Locker),
    ];
    if let Some((_, beside)) = profiled.into_iter().find(|(name, _)| *name == only) {
        println!("{:?}", ours(&fast, count, 8, 80, beside));
    }
}
