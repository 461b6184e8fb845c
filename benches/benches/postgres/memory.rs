//! What the binary holds while 100,000 jobs of 1 KiB are published into its durable queue and its worker is slow.
//!
//! `MEMORY_JOBS` is how many. The binary is `target/release/dispatch`, built with the feature `postgres`, or
//! `DISPATCH_BIN`. Linux only: it reads `/proc`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{runtime::Runtime, time::sleep};

use crate::server::{Database, connect, number};

const BATCH: i64 = 1_000;

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

/// A worker that takes a fifth of a second for each request.
fn worker() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = vec![0; 64 * 1024];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    #[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
                    std::thread::sleep(Duration::from_millis(200));
                    if stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// In KiB.
fn memory(process: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn run(url: &str) {
    let jobs = i64::try_from(number("MEMORY_JOBS", 100_000)).unwrap();
    let database = Database::create(url);
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "name = \"memory\"\n[source]\ntype = \"queue\"\nqueue = \"memory\"\n\
         [sink]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n\
         [store]\ntype = \"postgres\"\nurl = \"{}\"\n[admin]\nlisten = \"off\"\n",
        worker(),
        database.url
    );
    fs::write(directory.path().join("memory.toml"), config).unwrap();
    let child = Command::new(binary())
        .args(["run", "memory.toml", "--log-format", "json"])
        .current_dir(directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("build the binary first: cargo build --release -p dispatch-cli --features full");
    let mut child = Ended(child);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    // It says something once it runs; the rest is read and dropped.
    lines.next().expect("the binary says that it runs").unwrap();
    std::thread::spawn(move || lines.for_each(drop));

    Runtime::new().unwrap().block_on(async {
        let client = connect(&database.url).await;
        let ready = "SELECT to_regproc('dispatch_enqueue') IS NOT NULL";
        while !client.query_one(ready, &[]).await.unwrap().get::<_, bool>(0) {
            sleep(Duration::from_millis(20)).await;
        }
        let publish = "SELECT count(dispatch_enqueue('memory', repeat('x', 1024))) FROM generate_series(1, $1::bigint)";
        let resident = |when: &str| {
            println!("  {when:<28} {:>7} KiB resident", memory(child.0.id(), "VmRSS:"));
        };
        resident("idle");
        for batch in 0..jobs / BATCH {
            client.execute(publish, &[&BATCH]).await.unwrap();
            if [1, 10, 100].contains(&((batch + 1) * BATCH / 1_000)) {
                resident(&format!("{} published", (batch + 1) * BATCH));
            }
        }
        sleep(Duration::from_secs(5)).await;
        resident("5 s later");
        let left: i64 = client
            .query_one("SELECT count(*) FROM dispatch_item", &[])
            .await
            .unwrap()
            .get(0);
        println!(
            "  {:<28} {:>7} KiB; {left} of {jobs} jobs still stood in the queue",
            "the most at any time",
            memory(child.0.id(), "VmHWM:")
        );
    });
}
