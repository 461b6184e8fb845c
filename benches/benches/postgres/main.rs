//! PostgreSQL to tasks, beside bare tokio-postgres and the peers that do the same work, in one run on one server.
//!
//! `cargo bench -p dispatch-benches --bench postgres -- PART...` prints what it measures; without a part, all of them:
//!
//! * `listen`: notifications to tasks in Rust
//! * `queue`: the durable queue, and peers whose programs `scripts/bench-queue` names
//! * `pickup`: from the durable queue to the sink at a steady 500 a second
//! * `memory`: what the binary holds while 100,000 jobs are published
//! * `gap`: how long nothing is heard when the listener's backend is killed under load
//!
//! Needs `DISPATCH_TEST_POSTGRES_URL`. Each part works in a database of its own, which is dropped at its end.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

mod bare;
mod gap;
mod listen;
mod memory;
mod peers;
mod pickup;
mod queue;
mod server;

fn main() {
    let Ok(url) = std::env::var("DISPATCH_TEST_POSTGRES_URL") else {
        eprintln!("skipped: postgres: DISPATCH_TEST_POSTGRES_URL is not set");
        return;
    };
    // `cargo bench` adds a flag of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let parts: [(&str, fn(&str)); 5] = [
        ("listen", listen::run),
        ("queue", queue::run),
        ("pickup", pickup::run),
        ("memory", memory::run),
        ("gap", gap::run),
    ];
    if let Some(unknown) = wanted.iter().find(|name| parts.iter().all(|(part, _)| part != name)) {
        eprintln!("there is no part `{unknown}`: listen, queue, pickup, memory, gap");
        std::process::exit(2);
    }
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            println!("{name}");
            run(&url);
        }
    }
}
