//! Notifications from the command line.

use dispatch_core::random_id;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Running, dir, dispatch, get, until};

/// Sent by the file that listens: small ones, one of several pieces, and what cannot be.
#[tokio::test]
async fn send_publishes_where_the_files_source_listens() {
    let Some(url) = crate::postgres::url("send_publishes_where_the_files_source_listens") else {
        return;
    };
    let (one, two) = (random_id(), random_id());
    let file = |channels: &str| {
        format!(
            "name = \"p\"\n[source]\ntype = \"pg_notify\"\ndsn = \"{url}\"\nchannels = {channels}\n\
             [sink]\ntype = \"stdout\"\n[store]\ntype = \"memory\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
        )
    };
    let dir = dir(&[
        ("one.toml", &file(&format!("[\"{one}\"]"))),
        ("two.toml", &file(&format!("[\"{one}\", \"{two}\"]"))),
        (
            "none.toml",
            &file("[]").replace(&format!("dsn = \"{url}\"\n"), "control = { socket = \"a.sock\" }\n"),
        ),
    ]);
    let mut running = Running::start(dir.path(), &["run", "two.toml"]);
    let admin = running.ready().await;
    running.says("\"listening\"").await;
    let large = format!(r#"{{"task": "a.large", "args": ["{}"]}}"#, "x".repeat(20_000));
    let send = |arguments: &[&str]| dispatch(dir.path(), &[&["send"], arguments].concat());

    let small = r#"{"task": "a.small"}"#;
    let sent = send(&["one.toml", "--payload", small, "--payload", &large]);
    assert_eq!((sent.code, sent.out.trim()), (0, "sent 2 messages"), "{sent:?}");
    let sent = send(&[
        "two.toml",
        "--channel",
        &two,
        "--payload",
        r#"{"task": "a.other"}"#,
        "--json",
    ]);
    assert_eq!((sent.code, &sent.json()["sent"]), (0, &1.into()), "{sent:?}");
    for (arguments, part) in [
        (&["two.toml", "--payload", small][..], "--channel: "),
        (&["two.toml", "--payload", small, "--channel", "x"], "--channel: "),
        (
            &["one.toml", "--payload", small, "--delay", "1s"],
            "write `uuid`, `delay`",
        ),
        (&["one.toml", "--payload", small, "--id", "a"], "write `uuid`, `delay`"),
        (&["one.toml", "--payload", small, "-H", "a=b"], "write `uuid`, `delay`"),
        (&["none.toml", "--payload", small], "by its socket alone"),
    ] {
        let refused = send(arguments);
        assert!(
            refused.code == 2 && refused.err.contains(part),
            "{arguments:?}: {refused:?}"
        );
    }

    until("all are done", async || {
        let (_, status) = get(&format!("{admin}/v1/status")).await;
        serde_json::from_str::<Value>(&status).unwrap()["pipelines"][0]["delivered"] == 3
    })
    .await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let out = running.out();
    let tasks = ["a.small", "a.large", "a.other"].map(|task| out.matches(task).count());
    assert_eq!(tasks, [1, 1, 1], "{out}");
    assert!(out.contains(&"x".repeat(20_000)));
}
