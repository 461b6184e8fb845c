//! The preset `sqsd` between a real SQS server and a worker in a process of its own, which dies and comes back.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    sqsd_server::Queue,
    support::{Running, command, dir, tell, until},
};

/// Writes the id of each message to a file, takes a little, and answers.
const WORKER: &str = r#"
import http.server, sys, time

class Worker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        with open("begun", "a") as ledger:
            ledger.write(self.headers["x-aws-sqsd-msgid"] + "\n")
        time.sleep(0.01)
        with open("done", "a") as ledger:
            ledger.write(self.headers["x-aws-sqsd-msgid"] + "\n")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Worker)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// The process; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts it, on any free port if it is 0, and says on which.
fn start(dir: &Path, port: u16) -> (Process, u16) {
    let child = Command::new("python3")
        .current_dir(dir)
        .args(["worker.py", &port.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (process, line.trim().parse().unwrap())
}

fn ids(dir: &Path, ledger: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(ledger)).unwrap_or_default();
    let mut ids: Vec<_> = text.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_process_that_is_killed_and_comes_back_is_given_everything() {
    const MESSAGES: usize = 300;
    const KILLS: usize = 3;
    let Some(queue) = Queue::new("killed-worker").await else {
        return;
    };
    let dir = dir(&[("worker.py", WORKER)]);
    let (mut worker, port) = start(dir.path(), 0);
    for number in 0..MESSAGES {
        queue.send(&number.to_string(), &[]).await;
    }
    let mut preset = command(dir.path(), &["sqsd", "--set", "layers.breaker.open=200ms"]);
    preset
        .envs(queue.environment(&format!("http://127.0.0.1:{port}")))
        .env("SQSD_ERROR_VISIBILITY_TIMEOUT", "1")
        .stdin(Stdio::null());
    let mut running = Running::spawn(&mut preset);

    for kill in 1..=KILLS {
        let reached = kill * MESSAGES / (KILLS + 2);
        until("the next moment", async || ids(dir.path(), "done").len() >= reached).await;
        drop(worker);
        // Nobody listens there: the breaker opens, and nothing is fetched until a probe gets through.
        let opened = || {
            running
                .log()
                .iter()
                .filter(|line| line.contains("\"breaker open\""))
                .count()
        };
        let before = opened();
        until("the breaker opens", async || opened() > before).await;
        (worker, _) = start(dir.path(), port);
    }
    until("all is deleted", async || queue.depth().await == (0, 0)).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());

    let (begun, done) = (ids(dir.path(), "begun"), ids(dir.path(), "done"));
    let mut once = done.clone();
    once.dedup();
    let (lost, again) = (MESSAGES - once.len(), begun.len() - once.len());
    tell(&format!(
        "sqsd, its worker killed {KILLS} times: lost={lost} posted_again={again}"
    ));
    assert_eq!(lost, 0);
    // Four at a time were at work as it died.
    assert!(again <= 4 * KILLS, "{again} came again");
}
