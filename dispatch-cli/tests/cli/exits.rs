//! The exit code of each case, and the words that go with it.

use std::net::TcpListener;

use crate::support::{dir, dispatch};

/// A pipeline that ends at once.
const EMPTY: &str =
    "[source]\ntype = \"file\"\npaths = [\"in.txt\"]\n[sink]\ntype = \"stdout\"\n[admin]\nlisten = \"off\"\n";

#[test]
fn each_mistake_has_its_exit_code_and_its_words() {
    let dir = dir(&[
        ("in.txt", ""),
        ("ok.toml", EMPTY),
        ("same.toml", &format!("name = \"ok\"\n{EMPTY}")),
        ("syntax.toml", "[source\n"),
        (
            "key.toml",
            "[source]\ntype = \"stdin\"\n[layers]\nratelimit = \"1/s\"\n[sink]\ntype = \"stdout\"\n",
        ),
        ("later.toml", "[source]\ntype = \"nats\"\n[sink]\ntype = \"stdout\"\n"),
        ("open.toml", &EMPTY.replace("off", "0.0.0.0:0")),
        ("one.toml", &EMPTY.replace("off", "127.0.0.1:1111")),
        ("two.toml", &EMPTY.replace("off", "127.0.0.1:2222")),
        (
            "dir.toml",
            &format!("{EMPTY}[store]\ntype = \"sqlite\"\npath = \"here\"\n"),
        ),
        (
            "nowhere.toml",
            &format!("{EMPTY}[store]\ntype = \"sqlite\"\npath = \"no/such/dir.db\"\n"),
        ),
        (
            "broken.toml",
            &format!("{EMPTY}[store]\ntype = \"sqlite\"\npath = \"broken.db\"\n"),
        ),
        ("broken.db", &"this is no database ".repeat(500)),
        (
            "down.toml",
            &EMPTY.replace("type = \"stdout\"", "type = \"http\"\nurl = \"http://127.0.0.1:1/\""),
        ),
    ]);
    std::fs::create_dir(dir.path().join("here")).unwrap();
    std::fs::write(dir.path().join("latin1.toml"), b"name = \"caf\xe9\"\n").unwrap();

    for (args, code, words) in [
        (vec!["run", "ok.toml"], 0, ""),
        (vec!["run", "--no-such-flag"], 2, "--no-such-flag"),
        (vec!["run", "ok.toml", "--set", "x"], 2, "KEY=VALUE"),
        (
            vec!["run", "ok.toml", "--log-level", "WRONG"],
            2,
            "error, warn, info, debug, trace",
        ),
        (vec!["run", "ok.toml", "--log-level", "info,WRONG"], 2, "TARGET=LEVEL"),
        (vec!["run", "ok.toml", "--log-level", "warn,hyper=debug"], 0, ""),
        (vec!["run"], 78, "no pipeline file"),
        (vec!["run", "missing.toml"], 78, "missing.toml"),
        (vec!["run", "here"], 78, "here is a directory"),
        (
            vec!["run", "latin1.toml"],
            78,
            "latin1.toml is not UTF-8 text: see line 1",
        ),
        (vec!["run", "syntax.toml"], 78, "syntax.toml:1:8"),
        (vec!["run", "key.toml"], 78, "key.toml:4:1"),
        (vec!["run", "key.toml"], 78, "did you mean `rate_limit`"),
        (vec!["run", "later.toml"], 78, "this version of dispatch has no `nats`"),
        (vec!["run", "open.toml"], 78, "no token is set"),
        (
            vec!["run", "ok.toml", "same.toml"],
            78,
            "same.toml are both named \"ok\"",
        ),
        (
            vec!["run", "one.toml", "two.toml"],
            78,
            "one.toml says \"127.0.0.1:1111\", two.toml says \"127.0.0.1:2222\"",
        ),
        (vec!["run", "ok.toml", "--set", "sink.type=nope"], 78, "--set"),
        (vec!["run", "ok.toml", "--env-file", "no.env"], 78, "no.env"),
        (vec!["run", "dir.toml"], 1, "here"),
        (vec!["run", "nowhere.toml"], 1, "there is no directory"),
        (vec!["run", "broken.toml"], 1, "not a SQLite database"),
        (vec!["lint", "ok.toml"], 0, ""),
        (vec!["lint", "key.toml"], 1, ""),
        (vec!["lint", "missing.toml"], 78, "missing.toml"),
        (vec!["lint", "here"], 78, "no pipeline file in here"),
        (vec!["check", "ok.toml"], 0, ""),
        (vec!["check", "key.toml"], 78, "key.toml:4:1"),
        (vec!["check", "down.toml"], 1, ""),
        (vec!["create", "file"], 2, "SOURCE/SINK"),
        (vec!["create", "fil/stdout"], 2, "there is no source \"fil\""),
        (vec!["send", "ok.toml", "-p", "x"], 2, "`file` source takes no messages"),
        (vec!["dlq", "list", "--store", "sqlite:none.db"], 1, "none.db"),
        (vec!["dlq", "list", "--store", "mysql:x"], 2, "sqlite:PATH"),
        (vec!["dlq", "purge", "-c", "ok.toml"], 2, "--yes"),
        (vec!["dlq", "show", "7", "-c", "ok.toml"], 1, "no dead letter 7"),
        (vec!["status", "--url", "http://127.0.0.1:1"], 1, "cannot connect"),
        (vec!["healthcheck", "http://127.0.0.1:1"], 1, "cannot connect"),
        (vec!["--version"], 0, ""),
    ] {
        let done = dispatch(dir.path(), &args);

        assert_eq!(done.code, code, "{args:?}: {done:?}");
        assert!(done.err.contains(words), "{args:?}: {}", done.err);
        assert!(!done.err.contains("panicked"), "{args:?}: {}", done.err);
    }
}

#[test]
fn a_taken_port_is_named_with_its_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = dir(&[("in.txt", ""), ("p.toml", &EMPTY.replace("off", &address))]);

    let done = dispatch(dir.path(), &["run", "p.toml"]);

    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        done.err.contains(&address) && done.err.contains("[admin] listen ="),
        "{}",
        done.err
    );
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_component_that_was_left_out_names_its_feature() {
    let dir = dir(&[(
        "p.toml",
        &format!("{EMPTY}[store]\ntype = \"postgres\"\nurl = \"postgres://h/d\"\n"),
    )]);

    let done = dispatch(dir.path(), &["run", "p.toml"]);

    assert_eq!(done.code, 78, "{done:?}");
    assert!(done.err.contains("--features postgres"), "{}", done.err);
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_build_without_traces_says_once_which_feature_they_take() {
    let dir = dir(&[("in.txt", "one\n"), ("p.toml", EMPTY)]);
    for (variables, expected) in [
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")][..], 1),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
                ("OTEL_SDK_DISABLED", "true"),
            ],
            0,
        ),
        (&[], 0),
    ] {
        let mut command = crate::support::command(dir.path(), &["run", "p.toml"]);
        let done = crate::support::done(command.envs(variables.iter().copied()));

        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(done.err.matches("--features otel").count(), expected, "{done:?}");
    }
}
