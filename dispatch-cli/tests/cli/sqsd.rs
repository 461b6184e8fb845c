//! The preset `sqsd`, and the scoreboard that it opens.

use std::{path::Path, process::Command};

use crate::support::{Done, command, dir, done};

/// The file that the README of sqsd shows, word for word.
pub(crate) const SEED: &str = include_str!("sqsd.env");

/// The preset with nothing of the caller's environment that it would read.
fn preset(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = command(dir, args);
    forget_ours(&mut command);
    command.envs(variables.iter().copied());
    command
}

/// Takes away what the preset would read of the caller's environment.
pub(crate) fn forget_ours(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let ours = [
            "AWS_",
            "SQSD_",
            "SQS_",
            "FETCHER_",
            "INVOKER_",
            "MONITORING_",
            "REDIS_LOCKER_",
            "LOCK_",
            "LOG_LEVEL",
            "UNLOCK_",
        ];
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

fn run(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Done {
    done(&mut preset(dir, args, variables))
}

#[test]
fn the_file_of_the_readme_makes_the_same_pipeline_as_the_plain_environment() {
    let dir = dir(&[(".env", SEED)]);
    let variables: Vec<_> = SEED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();

    let from_file = run(dir.path(), &["sqsd", "-e", ".env", "--print-config"], &[]);
    let from_environment = run(dir.path(), &["sqsd", "--print-config"], &variables);

    assert_eq!((from_file.code, from_file.err.as_str()), (0, ""), "{from_file:?}");
    assert_eq!(from_file.out, from_environment.out);
    for part in [
        "type = \"sqs\"",
        "queue_url = \"https://queue.amazonaws.com/80398EXAMPLE/MyQueue\"",
        "url = \"http://local.example.com/setup/your/worker/path\"",
        "visibility_timeout = \"1m10s\"",
        "retry = \"off\"",
        "region = \"us-east-1\"",
        "timeout = \"1m\"",
        "concurrency = 1\n",
        "pollers = 1\n",
        "keep = \"1day\"",
        "sweep = \"1m\"",
        "listen = \"127.0.0.1:6969\"",
    ] {
        assert!(from_file.out.contains(part), "{part}: {}", from_file.out);
    }
}

#[test]
fn the_environment_goes_before_the_file_and_the_working_directory_before_the_root() {
    let dir = dir(&[(".env", SEED)]);
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(
        dir.path().join("etc/x.env"),
        format!("{SEED}INVOKER_PARALLEL_COUNT=5\n"),
    )
    .unwrap();

    let over = run(
        dir.path(),
        &["sqsd", "-e", ".env", "--print-config"],
        &[("INVOKER_URL", "http://127.0.0.1:1/mine")],
    );
    let below = run(dir.path(), &["sqsd", "-e", "/etc/x.env", "--print-config"], &[]);
    let absolute = dir.path().join(".env");
    let absolute = run(
        dir.path(),
        &["sqsd", "-e", &absolute.to_string_lossy(), "--print-config"],
        &[],
    );
    let none = run(dir.path(), &["sqsd", "--print-config"], &[]);

    assert!(over.out.contains("url = \"http://127.0.0.1:1/mine\""), "{over:?}");
    assert!(below.out.contains("concurrency = 5"), "{below:?}");
    assert_eq!(absolute.code, 0, "{absolute:?}");
    // No file is read that is not named.
    assert_eq!(none.code, 1, "{none:?}");
}

#[test]
fn started_under_its_name_the_binary_is_sqsd() {
    let dir = dir(&[(".env", SEED)]);
    let link = dir.path().join("sqsd");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dispatch"), &link).unwrap();
    let mut renamed = Command::new(&link);
    renamed.current_dir(dir.path()).args(["-e", ".env", "--print-config"]);

    let done = done(&mut renamed);

    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("type = \"sqs\""), "{done:?}");
}

#[test]
fn mistakes_are_told_at_once_and_end_it_with_one() {
    let dir = dir(&[("bad.env", "QUEUE_URL=x\nthe canary sings\n"), ("good.env", SEED)]);

    let missing = run(
        dir.path(),
        &["sqsd"],
        &[("INVOKER_TIMEOUT", "60"), ("SQSD_HMAC_SECRET_KEY", "canary")],
    );
    assert_eq!(missing.code, 1);
    for part in [
        "QUEUE_URL is not set",
        "INVOKER_URL is not set",
        "INVOKER_TIMEOUT: \"60\"",
        "SQSD_HTTP_HMAC_HEADER is not set",
    ] {
        assert!(missing.err.contains(part), "{part}: {}", missing.err);
    }
    let malformed = run(dir.path(), &["sqsd", "-e", "bad.env"], &[]);
    assert_eq!(malformed.code, 1);
    assert!(
        malformed
            .err
            .contains("bad.env: after QUEUE_URL, a line is not NAME=VALUE"),
        "{}",
        malformed.err
    );
    let absent = run(dir.path(), &["sqsd", "-e", "no.env"], &[]);
    assert_eq!(absent.code, 1);
    assert!(absent.err.contains("no.env: cannot be read"), "{}", absent.err);
    let meant = run(
        dir.path(),
        &["sqsd", "-e", "good.env", "--print-config"],
        &[("INVOKER_TIMOUT", "5s")],
    );
    assert_eq!(meant.code, 0);
    assert!(meant.err.contains("did you mean INVOKER_TIMEOUT?"), "{}", meant.err);
    let all = [missing.err, malformed.err, absent.err, meant.err, meant.out].concat();
    assert!(!all.contains("canary"), "{all}");
}

#[cfg(feature = "monitoring")]
mod scoreboard {
    use rustix::process::Signal;

    use crate::support::{Running, Worker, dir, dispatch, file_to, get, lines, post, until};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_opens_it_and_it_closes_last() {
        let worker = Worker::start().await;
        worker.hold();
        let file = format!("{}[monitoring]\nlisten = \"127.0.0.1:0\"\n", file_to(&worker));
        let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &file)]);
        let mut running = Running::start(dir.path(), &["run", "p.toml"]);
        running.ready().await;
        let line: serde_json::Value = serde_json::from_str(&running.says("monitoring listens").await).unwrap();
        let at = format!("http://{}", line["address"].as_str().unwrap());
        until("work in flight", async || worker.count() == 3).await;
        let jobs = async || {
            let jobs: serde_json::Value =
                serde_json::from_str(&get(&format!("{at}/worker/current/jobs")).await.1).unwrap();
            jobs["current_jobs"].as_array().unwrap().len()
        };

        assert_eq!(jobs().await, 3);
        assert_eq!(
            post(&format!("{at}/worker/pause")).await,
            (200, r#"{"success":true}"#.to_owned())
        );
        running.signal(Signal::TERM);
        running.says("Draining").await;
        assert_eq!(jobs().await, 3, "it is open while work is being finished");

        worker.let_go();
        assert_eq!(running.ends().await, 0);
        assert_eq!(get(&format!("{at}/stats")).await.0, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_address_that_is_taken_ends_the_start() {
        let worker = Worker::start().await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = format!(
            "{}[monitoring]\nlisten = \"{}\"\n",
            file_to(&worker),
            taken.local_addr().unwrap()
        );
        let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &file)]);

        let done = dispatch(dir.path(), &["run", "p.toml"]);

        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.err.contains("monitoring cannot listen on"), "{}", done.err);
        assert_eq!(worker.count(), 0);
    }
}
