//! The example `sqs_function`, run against a real SQS server.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use dispatch_core::{config::Secret, random_id};
use dispatch_sqs_client::{Place, Queue};

const LONG: Duration = Duration::from_secs(60);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Cargo builds examples beside their package's tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().with_file_name("examples").join("sqs_function");
    assert!(path.exists(), "not built: cargo build -p dispatch-examples --examples");
    path
}

/// A queue of its own.
async fn queue() -> Option<Queue> {
    let Ok(server) = std::env::var("DISPATCH_TEST_SQS_URL") else {
        assert!(std::env::var_os("CI").is_none(), "DISPATCH_TEST_SQS_URL is not set");
        let why = "skipped: the_example_runs_a_function_for_each_message: DISPATCH_TEST_SQS_URL is not set";
        drop(writeln!(std::io::stderr(), "{why}"));
        return None;
    };
    let secret = Secret::new("secret");
    let made = format!("{server}/000000000000/made-below");
    let place = Place {
        queue_url: Some(&made),
        access_key_id: Some("key"),
        secret_access_key: Some(&secret),
        ..Place::default()
    };
    let mut queue = place.connect(None).await.unwrap();
    let name = format!("function-{}", random_id());
    let made = queue.sqs.create_queue().queue_name(name).send().await.unwrap();
    queue.url = made.queue_url.unwrap();
    Some(queue)
}

#[tokio::test]
async fn the_example_runs_a_function_for_each_message() {
    let Some(queue) = queue().await else { return };
    for number in 0..20 {
        let body = format!("job {number}");
        let sent = queue.sqs.send_message().queue_url(&queue.url).message_body(body);
        sent.send().await.unwrap();
    }

    let mut example = Command::new(example());
    example
        .env("QUEUE_URL", &queue.url)
        .env("MONITORING_PORT", "0")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .stdout(Stdio::piped());
    let mut running = Running(example.spawn().unwrap());
    let (said, lines) = mpsc::channel();
    let out = BufReader::new(running.0.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
    let mut done: Vec<_> = (0..20).map(|_| lines.recv_timeout(LONG).unwrap()).collect();
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();

    // SIGTERM drains: what was done is deleted, and the summary is the last word.
    let summary = lines.recv_timeout(LONG).unwrap();
    assert!(running.0.wait().unwrap().success(), "{summary}");
    assert!(summary.contains("delivered: 20"), "{summary}");
    let bodies = done.iter_mut().map(|line| line.split_once(": ").unwrap().1.to_owned());
    let mut bodies: Vec<_> = bodies.collect();
    bodies.sort();
    let mut expected: Vec<_> = (0..20).map(|number| format!("job {number}")).collect();
    expected.sort();
    assert_eq!(bodies, expected, "each once");
    let none = queue.sqs.receive_message().queue_url(&queue.url).send().await.unwrap();
    assert_eq!(none.messages.unwrap_or_default(), []);
}
