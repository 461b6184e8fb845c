//! How much memory the binary itself holds with 10,000 messages of 1 KiB in flight.
//!
//! `cargo build --release -p dispatch-cli && cargo bench -p dispatch-benches --bench resident` prints it;
//! `DISPATCH_BIN` names another binary. Linux only: it reads `/proc`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const IN_FLIGHT: usize = 10_000;

/// The binary, beside the benches unless `DISPATCH_BIN` says otherwise.
fn binary() -> PathBuf {
    std::env::var_os("DISPATCH_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/dispatch"),
        PathBuf::from,
    )
}

/// Ends its process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A worker that takes every request and answers none.
fn worker() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().filter_map(Result::ok).collect::<Vec<_>>());
    port
}

/// The address that the admin server's log line names.
fn admin(child: &mut Child) -> String {
    let lines = BufReader::new(child.stderr.take().unwrap());
    let mut lines = lines.lines().map(Result::unwrap);
    let address = lines
        .by_ref()
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            Some(line.get("address")?.as_str()?.to_owned())
        })
        .expect("the admin server says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    address
}

fn status(address: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /v1/status HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn resident_kib(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn in_flight(status: &serde_json::Value) -> usize {
    let held = status
        .pointer("/pipelines/0/in_flight")
        .and_then(serde_json::Value::as_u64);
    usize::try_from(held.expect("the status says what is in flight")).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
fn main() {
    let directory = tempfile::tempdir().unwrap();
    let lines = directory.path().join("lines.txt");
    let mut file = std::io::BufWriter::new(fs::File::create(&lines).unwrap());
    for n in 0..2 * IN_FLIGHT {
        writeln!(file, "{n:01024}").unwrap();
    }
    file.flush().unwrap();
    for (name, wanted) in [("idle", 0), ("in flight", IN_FLIGHT)] {
        let paths = if wanted == 0 {
            "[\"nothing.txt\"]"
        } else {
            "[\"lines.txt\"]"
        };
        fs::write(directory.path().join("nothing.txt"), "one line\n").unwrap();
        let config = format!(
            "name = \"resident\"\nprefetch = {}\n[source]\ntype = \"file\"\npaths = {paths}\nfrom = \"start\"\n\
             [layers]\nconcurrency = 64\ntimeout = \"1h\"\nbreaker = \"off\"\n\
             [sink]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            IN_FLIGHT - 64,
            worker(),
        );
        fs::write(directory.path().join("resident.toml"), config).unwrap();
        let child = Command::new(binary())
            .args(["run", "resident.toml", "--log-format", "json"])
            .current_dir(directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("build the binary first: cargo build --release -p dispatch-cli");
        let mut child = Ended(child);
        let address = admin(&mut child.0);
        let mut held = 0;
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(50));
            held = in_flight(&status(&address));
            if held >= wanted.max(1) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        println!(
            "{name}: {held} messages of 1 KiB held, {} KiB resident",
            resident_kib(child.0.id())
        );
    }
}
