//! Verbs that print, and what they print.

use std::path::Path;

use serde_json::Value;

use crate::support::{dir, dispatch, done, fed};

/// Of the binary with everything in it.
#[cfg(feature = "full")]
#[test]
fn the_help_is_as_it_was() {
    let dir = dir(&[]);
    for (name, args) in [
        ("help", vec!["-h"]),
        ("help_run", vec!["run", "--help"]),
        ("help_lint", vec!["lint", "-h"]),
        ("help_send", vec!["send", "-h"]),
        ("help_dlq_replay", vec!["dlq", "replay", "-h"]),
        ("help_drain", vec!["drain", "-h"]),
        ("help_check", vec!["check", "-h"]),
        ("help_list", vec!["list", "-h"]),
        ("help_create", vec!["create", "-h"]),
        ("help_echo", vec!["echo", "-h"]),
        ("help_schema", vec!["schema", "-h"]),
        ("help_status", vec!["status", "-h"]),
        ("help_healthcheck", vec!["healthcheck", "-h"]),
        ("help_dlq_list", vec!["dlq", "list", "-h"]),
        ("help_dlq_export", vec!["dlq", "export", "-h"]),
        ("help_dlq_redrive", vec!["dlq", "redrive", "-h"]),
        ("help_nodes", vec!["nodes", "-h"]),
        ("help_sqsd", vec!["sqsd", "-h"]),
        ("help_dispatcherd", vec!["dispatcherd", "-h"]),
    ] {
        let done = dispatch(dir.path(), &args);
        assert_eq!(done.code, 0, "{done:?}");
        insta::assert_snapshot!(name, done.out);
    }
}

#[test]
fn every_example_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let examples = std::fs::read_dir(root.join("examples")).unwrap();
    let files: Vec<_> = examples
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml") && !path.ends_with("Cargo.toml"))
        .collect();
    assert!(!files.is_empty());
    for file in files {
        let done = dispatch(
            root,
            &["lint", "--skip-env-check", "--deny-warnings", &file.to_string_lossy()],
        );
        // An example of what this build lacks must say how to get it.
        let lacks = cfg!(not(feature = "full")) && done.out.contains("build dispatch-cli with `--features");
        assert!(done.code == 0 || lacks, "{}: {}", file.display(), done.out);
    }
}

/// Who adds a component says what those who name it may rely on: one that says nothing is experimental.
#[test]
fn every_component_says_how_stable_it_is() {
    let dir = dir(&[]);
    let json = dispatch(dir.path(), &["list", "--json"]).json();
    let text = dispatch(dir.path(), &["list"]).out;

    let mut beta = Vec::new();
    for kind in ["sources", "sinks", "stores", "layers"] {
        let entries = json[kind].as_array().unwrap();
        assert!(!entries.is_empty(), "{json}");
        for entry in entries {
            let (name, stability) = (entry["name"].as_str().unwrap(), entry["stability"].as_str().unwrap());
            let line = |line: &str| line.split_whitespace().take(2).eq([name, stability]);
            assert!(text.lines().any(line), "{name} {stability}: {text}");
            match stability {
                "stable" => {}
                "beta" => beta.push(format!("{kind}/{name}")),
                _ => panic!("{kind}/{name} is {stability}"),
            }
        }
    }
    let known = [
        "sources/pg_notify",
        "sources/sqs",
        "sources/sqsd_cron",
        "sinks/pg_notify",
        "sinks/process",
        "sinks/sqs",
        "stores/redis",
    ];
    assert!(beta.iter().all(|one| known.contains(&one.as_str())), "{beta:?}");
    #[cfg(feature = "full")]
    assert_eq!(beta, known);
}

#[test]
fn what_create_writes_is_right() {
    let dir = dir(&[]);
    let names = |kind: &str| -> Vec<String> {
        let all = dispatch(dir.path(), &["list", kind, "--json"]).json();
        let all = all[kind].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let layers = names("layers").join(",");
    let (sources, sinks) = (names("sources"), names("sinks"));
    assert!(sources.contains(&"http".to_owned()) && sinks.contains(&"fanout".to_owned()));

    let with_sinks = sinks.iter().map(|sink| format!("stdin/{layers}/{sink}"));
    for expression in sources
        .iter()
        .map(|source| format!("{source}/stdout"))
        .chain(with_sinks)
    {
        for more in [&[][..], &["--small"]] {
            let made = dispatch(dir.path(), &[&["create", &expression], more].concat());
            assert_eq!(made.code, 0, "{made:?}");
            std::fs::write(dir.path().join("made.toml"), &made.out).unwrap();
            let lint = dispatch(dir.path(), &["lint", "made.toml"]);
            assert_eq!(lint.code, 0, "{expression}: {}\n{}", lint.out, made.out);
        }
    }
}

#[test]
fn lint_walks_directories_and_passes_other_files_over() {
    let good = "[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n";
    let dir = dir(&[("good.toml", good), ("Cargo.toml", "[package]\nname = \"x\"\n")]);
    std::fs::create_dir(dir.path().join("deep")).unwrap();
    std::fs::write(dir.path().join("deep/bad.toml"), good.replace("stdout", "stdot")).unwrap();

    let flat = dispatch(dir.path(), &["lint", "."]);
    let deep = dispatch(dir.path(), &["lint", "./...", "--format", "github"]);
    let json = dispatch(dir.path(), &["lint", "./...", "--json"]).json();

    assert_eq!((flat.code, flat.out.trim()), (0, "1 file, no mistakes"));
    assert_eq!(deep.code, 1);
    assert!(
        deep.out.starts_with("::error file=./deep/bad.toml,line=4,col=8::"),
        "{}",
        deep.out
    );
    assert_eq!((&json["files"], &json["findings"][0]["line"]), (&2.into(), &4.into()));
}

#[test]
fn lint_asks_for_variables_unless_told_not_to() {
    let dir = dir(&[(
        "p.toml",
        "[source]\ntype = \"stdin\"\n[sink]\ntype = \"http\"\nurl = \"http://${WORKER_HOST}/\"\n",
    )]);

    let asked = dispatch(dir.path(), &["lint", "p.toml"]);
    assert_eq!(asked.code, 1);
    assert!(asked.out.contains("WORKER_HOST is not set"), "{}", asked.out);
    assert_eq!(dispatch(dir.path(), &["lint", "p.toml", "--skip-env-check"]).code, 0);
}

#[test]
fn settings_are_laid_over_the_file_in_order() {
    let dir = dir(&[(
        "dispatch.toml",
        "[source]\ntype = \"stdin\"\n[layers]\ntimeout = \"1s\"\n[sink]\ntype = \"stdout\"\n",
    )]);
    let timeout = |args: &[&str], variable: Option<&str>| {
        let mut command = crate::support::command(dir.path(), &[&["echo", "--json"], args].concat());
        command.envs(variable.map(|value| ("DISPATCH__LAYERS__TIMEOUT", value)));
        done(&mut command).json()["layers"]["timeout"].clone()
    };

    assert_eq!(timeout(&[], None), "1s");
    assert_eq!(timeout(&[], Some("2s")), "2s");
    assert_eq!(timeout(&["--set", "layers.timeout=3s"], Some("2s")), "3s");
}

#[test]
fn every_flag_has_its_variable() {
    let dir = dir(&[]);
    let mut command = crate::support::command(dir.path(), &["list"]);

    let done = done(command.env("DISPATCH_JSON", "true"));

    assert!(done.json()["sources"].is_array());
}

#[test]
fn what_others_read_can_be_read() {
    let dir = dir(&[]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            dispatch(dir.path(), &["completions", shell]).out.contains("dispatch"),
            "{shell}"
        );
    }
    assert!(dispatch(dir.path(), &["man"]).out.contains(".SH"));
    let schema = dispatch(dir.path(), &["schema"]).json();
    assert_eq!(schema["title"], "A dispatch pipeline");
    let version = dispatch(dir.path(), &["--version", "--json"]).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["features"].as_array().unwrap().contains(&Value::from("sqlite")));
}

#[test]
fn what_is_sent_to_a_queue_comes_out_of_it() {
    let config = "name = \"p\"\n[source]\ntype = \"queue\"\nqueue = \"jobs\"\n[sink]\ntype = \"stdout\"\n[admin]\nlisten = \"off\"\n";
    let dir = dir(&[("p.toml", config)]);

    let sent = dispatch(
        dir.path(),
        &["send", "p.toml", "-p", "a", "-p", "b", "--dedupe", "once", "--json"],
    )
    .json();
    assert_eq!((&sent["sent"], &sent["duplicates"]), (&1.into(), &1.into()));
    let lines = fed(
        dir.path(),
        &["send", "p.toml", "--ndjson", "-H", "kind=x"],
        b"{\"n\":1}\n\n{\"n\":2}\r\n",
    );
    assert_eq!((lines.code, lines.out.trim()), (0, "sent 2 messages"), "{lines:?}");
    let named = ["send", "--queue", "jobs", "--store", "sqlite:dispatch.db", "-p", "c"];
    assert_eq!(dispatch(dir.path(), &named).code, 0);
}

#[test]
fn the_file_is_found_where_it_is_looked_for() {
    let file = |name: &str| format!("name = \"{name}\"\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n");
    let dir = dir(&[("named.toml", &file("named"))]);
    let user = dir.path().join("config/dispatch");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("dispatch.toml"), file("user")).unwrap();
    let name = |variable: Option<&str>| {
        let mut command = crate::support::command(dir.path(), &["echo", "--json"]);
        command.env("XDG_CONFIG_HOME", dir.path().join("config"));
        command.envs(variable.map(|value| ("DISPATCH_CONFIG", value)));
        done(&mut command).json()["name"].clone()
    };

    assert_eq!(name(None), "user");
    std::fs::write(dir.path().join("dispatch.toml"), file("here")).unwrap();
    assert_eq!(name(None), "here");
    assert_eq!(name(Some("named.toml")), "named");
    assert_eq!(
        dispatch(dir.path(), &["echo", "--json", "named.toml"]).json()["name"],
        "named"
    );
}

#[test]
fn every_verb_that_answers_can_answer_in_json() {
    let config = "[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n[admin]\nlisten = \"off\"\n";
    let dir = dir(&[("p.toml", config)]);
    for args in [
        &["run", "p.toml"][..],
        &["lint", "p.toml"],
        &["check", "p.toml"],
        &["list"],
        &["create", "stdin/stdout"],
        &["echo", "p.toml"],
        &["schema"],
        &["dlq", "list", "-c", "p.toml"],
        &["dlq", "replay", "-c", "p.toml"],
        &["dlq", "purge", "-c", "p.toml", "--dry-run"],
        &["nodes", "-c", "p.toml"],
        &["healthcheck", "http://127.0.0.1:1"],
        &["--version"],
    ] {
        let done = dispatch(dir.path(), &[args, &["--json"]].concat());
        assert!(done.json().is_object(), "{args:?}: {done:?}");
    }
}
