//! What verbs print for machines.

use serde_json::Value;

use crate::support::{dir, dispatch};

#[test]
fn lint_prints_sarif_with_the_place_of_each_finding() {
    let bad = "[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdot\"\n";
    let dir = dir(&[("a b.toml", bad)]);

    let done = dispatch(dir.path(), &["lint", "a b.toml", "--format", "sarif"]);

    let sarif = done.json();
    let run = &sarif["runs"][0];
    let result = &run["results"][0];
    assert_eq!((done.code, &sarif["version"]), (1, &"2.1.0".into()));
    assert_eq!(run["results"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&result["ruleId"], &result["level"]),
        (&"mistake".into(), &"error".into())
    );
    assert!(
        result["message"]["text"].as_str().unwrap().contains("stdot"),
        "{result}"
    );
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "a%20b.toml");
    assert_eq!(
        (&place["region"]["startLine"], &place["region"]["startColumn"]),
        (&4.into(), &8.into())
    );
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{rules:?}");
}

#[test]
fn a_file_without_mistakes_has_no_results_in_sarif() {
    let good = "[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n";
    let dir = dir(&[("p.toml", good)]);

    let done = dispatch(dir.path(), &["lint", "p.toml", "--format", "sarif"]);

    assert_eq!(
        (done.code, &done.json()["runs"][0]["results"]),
        (0, &Value::Array(Vec::new()))
    );
}

#[test]
fn components_are_listed_as_text_as_json_and_as_a_schema() {
    let dir = dir(&[]);
    let listed = |args: &[&str]| dispatch(dir.path(), &[&["list"], args].concat());

    let text = listed(&["sinks", "--format", "text"]);
    assert_eq!(text.out, listed(&["sinks"]).out);
    assert_eq!(listed(&["--format", "json"]).json(), listed(&["--json"]).json());

    let whole = dispatch(dir.path(), &["schema"]).json();
    assert_eq!(listed(&["--format", "jsonschema"]).json(), whole);
    for (kind, right, wrong) in [
        ("sources", r#"{ "type": "stdin" }"#, r#"{ "type": "stdot" }"#),
        ("sinks", r#"{ "type": "stdout" }"#, r#"{ "type": "http" }"#),
        (
            "stores",
            r#"{ "type": "sqlite", "path": "x.db" }"#,
            r#"{ "path": "x.db" }"#,
        ),
        ("layers", r#"{ "breaker": { "key": "key" } }"#, r#"{ "braker": "off" }"#),
    ] {
        let schema = jsonschema::validator_for(&listed(&[kind, "--format", "jsonschema"]).json()).unwrap();
        let fits = |text: &str| schema.is_valid(&serde_json::from_str(text).unwrap());

        assert_eq!((fits(right), fits(wrong)), (true, false), "{kind}");
    }
}
