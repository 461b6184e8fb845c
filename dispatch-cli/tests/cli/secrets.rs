//! A secret is never printed.

use crate::support::{Done, dir, dispatch, done};

const CANARY: &str = "canary-5e1f";

const CONFIG: &str = r#"
name = "p"
drain_timeout = "100ms"
[source]
type = "file"
paths = ["in.txt"]
[layers]
retry = { max_attempts = 1 }
[sink]
type = "http"
url = "http://127.0.0.1:1/work"
auth = { bearer = "${file:secret.txt}" }
[admin]
listen = "127.0.0.1:0"
token = "${TOKEN}"
"#;

#[test]
fn no_verb_prints_a_secret() {
    let wrong = CONFIG.replace("drain_timeout = \"100ms\"", "drain_timout = \"${TOKEN}\"");
    let dir = dir(&[
        ("in.txt", ""),
        ("p.toml", CONFIG),
        (
            "plain.toml",
            &CONFIG.replace("${TOKEN}", CANARY).replace("${file:secret.txt}", CANARY),
        ),
        ("wrong.toml", &wrong),
        ("secret.txt", CANARY),
        ("p.env", &format!("TOKEN={CANARY}\n")),
        ("bad.env", &format!("TOKEN {CANARY}\n")),
    ]);

    for (args, code) in [
        (vec!["echo", "p.toml"], 0),
        (vec!["echo", "plain.toml"], 0),
        (vec!["echo", "plain.toml", "--json"], 0),
        (vec!["lint", "plain.toml"], 0),
        (vec!["lint", "p.toml", "-e", "p.env"], 0),
        (vec!["lint", "wrong.toml", "-e", "p.env", "--format", "json"], 1),
        (vec!["run", "wrong.toml", "-e", "p.env"], 78),
        (vec!["run", "p.toml", "-e", "bad.env"], 78),
        (vec!["run", "p.toml", "-e", "p.env", "--log-level", "trace"], 0),
        (
            vec!["run", "p.toml", "-e", "p.env", "--log-level", "trace,hyper=trace"],
            0,
        ),
        (vec!["check", "p.toml", "-e", "p.env", "-vv"], 1),
        (vec!["status", "--token", CANARY, "--url", "http://127.0.0.1:1"], 1),
    ] {
        let Done { code: got, out, err } = dispatch(dir.path(), &args);

        assert_eq!(got, code, "{args:?}: {out}{err}");
        assert!(!out.contains(CANARY) && !err.contains(CANARY), "{args:?}: {out}{err}");
    }
}

#[test]
fn help_does_not_show_what_is_in_the_environment() {
    let dir = dir(&[]);
    let mut command = crate::support::command(dir.path(), &["status", "--help"]);

    let done = done(command.env("DISPATCH_TOKEN", CANARY));

    assert!(
        done.out.contains("DISPATCH_TOKEN") && !done.out.contains(CANARY),
        "{}",
        done.out
    );
}
