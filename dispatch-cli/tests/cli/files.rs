//! Which files a verb takes, and what `check` does with them where there is no network.

use crate::support::{dir, dispatch};

fn named(name: &str) -> String {
    format!("name = \"{name}\"\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n")
}

/// What `check --no-network` says of the files that these arguments name: its code and the pipelines.
fn checked(dir: &std::path::Path, args: &[&str]) -> (i32, Vec<String>) {
    let done = dispatch(dir, &[&["check", "--no-network"], args].concat());
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    (done.code, done.out.lines().filter_map(first).collect())
}

#[test]
fn files_are_named_one_by_one_by_pattern_and_by_directory() {
    let dir = dir(&[
        ("a.toml", &named("a")),
        ("Cargo.toml", "[package]\nname = \"x\"\n"),
        ("[b].toml", &named("brackets")),
    ]);
    let path = dir.path();
    std::fs::create_dir(path.join("more")).unwrap();
    for name in ["c", "d"] {
        std::fs::write(path.join(format!("more/{name}.toml")), named(name)).unwrap();
    }

    for (args, expected) in [
        (&["a.toml"][..], &["a"][..]),
        (&["-c", "more/*.toml"], &["c", "d"]),
        (&["more/?.toml", "-c", "a.toml"], &["c", "d", "a"]),
        (&["-C", "more", "-C", "."], &["c", "d", "brackets", "a"]),
        (&["more/c.toml", "-C", "more"], &["c", "d"]),
        (&["[b].toml"], &["brackets"]),
    ] {
        let expected = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(checked(path, args), (0, expected), "{args:?}");
    }
    for (args, words) in [
        (["-c", "none/*.toml"], "no file matches none/*.toml"),
        (["-c", "a[.toml"], "cannot look for a[.toml"),
        (["-C", "none"], "cannot read none"),
    ] {
        let done = dispatch(path, &["check", args[0], args[1]]);
        assert_eq!(done.code, 78, "{args:?}");
        assert!(done.err.contains(words), "{args:?}: {}", done.err);
    }
    std::fs::write(path.join("more/e.toml"), named("c")).unwrap();
    let two = dispatch(path, &["check", "--no-network", "-C", "more"]);
    assert_eq!(two.code, 78);
    assert!(two.err.contains("both named \"c\""), "{}", two.err);
}

#[test]
fn a_check_without_network_connects_to_nothing() {
    let down = "name = \"p\"\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"http\"\nurl = \"http://127.0.0.1:9/\"\n";
    let dir = dir(&[("p.toml", down), ("bad.toml", &down.replace("url", "ulr"))]);

    let right = dispatch(dir.path(), &["check", "--no-network", "p.toml"]);
    let json = dispatch(dir.path(), &["check", "--no-network", "p.toml", "--json"]);
    let bad = dispatch(dir.path(), &["check", "--no-network", "bad.toml"]);

    assert_eq!((right.code, right.out.trim()), (0, "p  right, not connected"));
    assert_eq!((json.code, &json.json()["ok"]), (0, &true.into()));
    assert_eq!(bad.code, 78);
    assert!(!dir.path().join("dispatch.db").exists(), "nothing was opened");
    assert_eq!(
        dispatch(dir.path(), &["check", "p.toml"]).code,
        1,
        "with it, the worker is missed"
    );
}
