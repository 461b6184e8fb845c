//! Programs of others that empty a queue of their own in the same database, each in a process of its own.

use std::process::{Command, Stdio};

/// One that stands ready, by the variable that names its program.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Its share of the jobs: slow ones get fewer.
    pub(crate) share: usize,
    /// How many times its rate ours is to be.
    pub(crate) bound: Option<f64>,
    program: Vec<String>,
}

impl Peer {
    pub(crate) fn all() -> Vec<Self> {
        let mut peers = Vec::new();
        if let Ok(script) = std::env::var("BENCH_GRAPHILE_WORKER") {
            for (name, mode, share, bound) in [
                ("graphile-worker, batched", "batched", 1, Some(2.0)),
                ("graphile-worker, 24 at once, not batched", "concurrent", 4, Some(15.0)),
                ("graphile-worker, default", "default", 40, Some(15.0)),
            ] {
                let program = vec!["node".to_owned(), script.clone(), mode.to_owned()];
                peers.push(Self {
                    name,
                    share,
                    bound,
                    program,
                });
            }
        }
        if let Ok(program) = std::env::var("BENCH_APALIS_POSTGRES") {
            peers.push(Self {
                name: "apalis-postgres, 100 at a time",
                share: 4,
                bound: Some(8.0),
                program: vec![program, "100".to_owned()],
            });
        }
        peers
    }

    /// Has it fill and empty its queue; how many it did a second, in its own words.
    pub(crate) fn rate(&self, url: &str, rows: usize, payload: &str) -> f64 {
        let output = Command::new(&self.program[0])
            .args(&self.program[1..])
            .env("DATABASE_URL", url)
            .env("BENCH_ROWS", (rows / self.share).to_string())
            .env("BENCH_PAYLOAD", payload)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {}", self.name, output.status);
        let said = String::from_utf8(output.stdout).unwrap();
        let last = said.lines().last().expect("it says its rate");
        last.trim().parse().unwrap_or_else(|_| panic!("{}: {said}", self.name))
    }
}
