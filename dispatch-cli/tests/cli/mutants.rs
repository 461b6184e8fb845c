//! Any text at all is a pipeline file or a list of mistakes, never a panic.

use dispatch_core::{Registry, config::Loader};
use proptest::prelude::*;

/// Files that are right, to be made wrong.
const SEEDS: [&str; 3] = [
    r#"
name = "one"
prefetch = 3
drain_timeout = "25s"
lanes = { key = "header:tenant", order = true }
[source.a]
type = "file"
paths = ["in/*.ndjson"]
format = "ndjson"
[source.b]
type = "schedule"
every = "1m"
[layers]
concurrency = { limit = 64, key = "header:tenant" }
rate_limit = { rate = "100/s", burst = 10 }
timeout = "30s"
deadline = "10m"
retry = { max_attempts = 10, backoff = { base = "1s", factor = 2, max = "5m", jitter = "full" } }
breaker = { failures = "50%", min_calls = 20, window = "30s", open = "30s", probes = 3 }
[sink]
type = "http"
url = "http://127.0.0.1:8080/{header:kind}"
statuses = { "404" = "permanent" }
[store]
type = "sqlite"
path = "${HOME:-x}.db"
[admin]
listen = "127.0.0.1:9090"
"#,
    "[source]\ntype = \"http\"\nlisten = \"127.0.0.1:8080\"\nmode = \"sync\"\n[sink]\ntype = \"route\"\nby = \"header:kind\"\n\
     [sink.routes.a]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"true\"]\n[sink.routes.b]\ntype = \"fanout\"\n\
     sinks = [{ type = \"stdout\" }, { type = \"fallback\", sinks = [{ type = \"stdout\" }] }]\n",
    "then = [{ type = \"stdout\" }]\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n[store]\ntype = \"memory\"\n",
];

/// What mutants are made of beside letters.
const BITS: [&str; 24] = [
    "\"",
    "'''",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    "\n",
    "${",
    "}",
    "${X:-",
    "${file:",
    "0x",
    "-1",
    "1e999",
    "nan",
    "true",
    "[[source]]",
    "type = ",
    "\u{0}",
    "\u{feff}",
    "é",
    "2026-01-31T12:00:00Z",
];

fn read(text: &str, overrides: &[(String, String)]) {
    let mut registry = Registry::new();
    dispatch_cli::register(&mut registry);
    let over = |(path, value): &(String, String)| dispatch_core::config::Override {
        path: path.clone(),
        value: value.clone(),
        origin: "--set".to_owned(),
    };
    for lenient in [false, true] {
        let loader = Loader::new(&registry)
            .environment([("X".to_owned(), "x".to_owned())])
            .overrides(overrides.iter().map(over))
            .lenient(lenient);
        match loader.load("mutant.toml", text) {
            Ok(mut loaded) => match loaded.build_store() {
                Ok(store) => drop(loaded.build(&store)),
                Err(mistakes) => drop(mistakes.render(true)),
            },
            Err(mistakes) => {
                assert!(mistakes.has_errors());
                drop(mistakes.render(true));
            }
        }
    }
}

fn mutant() -> impl Strategy<Value = String> {
    let cut = (
        any::<prop::sample::Index>(),
        0..12_usize,
        prop::sample::select(&BITS[..]),
    );
    let cuts = prop::collection::vec(cut, 1..6);
    (prop::sample::select(&SEEDS[..]), cuts).prop_map(|(seed, cuts)| {
        let mut letters: Vec<char> = seed.chars().collect();
        for (at, length, bit) in cuts {
            let at = at.index(letters.len() + 1);
            let end = (at + length).min(letters.len());
            letters.splice(at..end, bit.chars());
        }
        letters.into_iter().collect()
    })
}

#[tokio::test]
async fn the_seeds_are_right() {
    let mut registry = Registry::new();
    dispatch_cli::register(&mut registry);
    for seed in SEEDS {
        let loaded = Loader::new(&registry)
            .load("seed.toml", seed)
            .unwrap_or_else(|error| panic!("{error}"));
        drop(loaded);
    }
}

/// A few seconds' worth; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(800),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_mutant_of_a_right_file_panics(text in mutant()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        read(&text, &[]);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}", path in "[a-z.\"\\[]{0,20}", value in "\\PC{0,20}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        read(&text, &[]);
        read(SEEDS[0], &[(path, value)]);
    }
}
