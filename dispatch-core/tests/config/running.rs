use dispatch_core::{
    config::{Loader, Override, echo, schema},
    pipeline::Summary,
};

use super::*;

async fn run(text: &str) -> Summary {
    let registry = registry();
    let variables = [
        ("GREETING".to_owned(), "from outside".to_owned()),
        ("N".to_owned(), "2".to_owned()),
    ];
    let mut loaded = Loader::new(&registry)
        .environment(variables)
        .load("test.toml", text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let store = loaded.build_store().unwrap();
    loaded.build(&store).unwrap().run().await.unwrap()
}

#[tokio::test]
async fn a_source_a_sink_and_a_layer_from_outside_run_from_toml() {
    let summary = run(r#"
        name = "outside"
        [source]
        type = "words"
        text = "one two"
        [layers]
        concurrency = 1
        shout = { times = 2 }
        [sink]
        type = "collect"
        into = "outside"
        [store]
        type = "ram"
        "#)
    .await;

    assert_eq!((summary.name.as_str(), summary.delivered), ("outside", 2));
    assert_eq!(collected("outside"), ["ONEONE", "TWOTWO"]);
}

#[tokio::test]
async fn what_is_the_same_by_its_key_is_worked_on_once() {
    let summary = run(r#"
        name = "deduped"
        source = { type = "words", text = "a b a a" }
        layers = { concurrency = 1 }
        dedupe = { key = "payload", keep = "1h", store = { type = "notes" } }
        sink = { type = "collect", into = "deduped" }
        store = { type = "ram" }
        "#)
    .await;

    assert_eq!(
        (collected("deduped"), summary.delivered),
        (vec!["a".to_owned(), "b".to_owned()], 4)
    );
}

#[tokio::test]
async fn several_sources_a_chain_a_route_and_placeholders() {
    let summary = run(r#"
        store = { type = "ram" }
        [source.first]
        type = "words"
        text = "a b c"
        limit = "${N}"
        [source.second]
        type = "words"
        text = "${GREETING} ${UNSET:-by default}"
        [sink]
        type = "fanout"
        sinks = [{ type = "collect", into = "fan" }]
        [[then]]
        type = "route"
        by = "payload"
        routes.a = { type = "collect", into = "route_a" }
        default = { type = "fallback", sinks = [{ type = "collect", into = "rest" }] }
        "#)
    .await;

    assert_eq!((summary.name.as_str(), summary.delivered), ("test", 6));
    assert_eq!(collected("route_a"), ["a"]);
    let mut rest = collected("rest");
    rest.sort();
    assert_eq!(rest, ["b", "by", "default", "from", "outside"]);
}

#[test]
fn every_form_of_the_layers_is_read() {
    let registry = registry();
    let head = "store.type = \"ram\"\nsource = { type = \"words\", text = \"x\" }\nsink = { type = \"collect\", into = \"forms\" }\n[layers]\n";
    for line in [
        "concurrency = 5",
        "concurrency = \"${N:-5}\"",
        "concurrency = \"adaptive\"",
        "concurrency = { adaptive = { max = 50 } }",
        "concurrency = { limit = 4, key = \"header:tenant\" }",
        "concurrency = { key = \"meta:action\", limits = { query = 50, load = 20 } }",
        "rate_limit = \"100/s\"",
        "rate_limit = { rate = \"100/s\", burst = 10, key = \"header:tenant\", rates = { big = \"1000/s\" } }",
        "rate_limit = { rate = \"100/s\", burst = 10, shared = \"api\" }",
        "rate_limit = { rate = \"100/s\", shared = \"api\", on_error = \"open\" }",
        "rate_limit = { rate = \"100/s\", shared = \"api\", on_error = \"closed\" }",
        "rate_limit = { rate = \"100/s\", shared = \"api\", on_error = \"local_share\", share = \"12.5%\" }",
        "timeout = \"30s\"",
        "timeout = \"off\"",
        "deadline = \"10m\"",
        "deadline = { total = \"10m\", age = \"1h\" }",
        "deadline = { age = \"1h\" }",
        "retry = \"off\"",
        "retry = { max_attempts = 3, backoff = \"5s\" }",
        "retry = { backoff = [\"1s\", \"10s\", \"1h\"] }",
        "retry = { backoff = { base = \"1s\", factor = 2, max = \"5m\", jitter = \"full\" }, budget = \"20%\", max_elapsed = \"1h\" }",
        "retry = { backoff = { kind = \"fibonacci\" }, rules = { throttled = { backoff = \"2m\" }, \"503\" = { backoff = \"1m\" } } }",
        "retry = { backoff = { kind = \"decorrelated\", min = \"10ms\" } }",
        "breaker = \"off\"",
        "breaker = { failures = \"50%\", min_calls = 20, window = \"30s\", open = \"30s\", probes = 3 }",
    ] {
        let mut loaded = Loader::new(&registry)
            .load("t.toml", &format!("{head}{line}"))
            .unwrap_or_else(|mistakes| panic!("{line}\n{mistakes}"));
        let store = loaded.build_store().unwrap();
        drop(
            loaded
                .build(&store)
                .unwrap_or_else(|mistakes| panic!("{line}\n{mistakes}")),
        );
    }
}

#[test]
fn later_settings_lie_over_the_file_and_their_mistakes_name_them() {
    let registry = registry();
    let text = "store.type = \"ram\"\nsource = { type = \"words\", text = \"x\" }\nsink = { type = \"collect\", into = \"set\" }\n[layers]\nconcurrency = 5\n";
    let set = |path: &str, value: &str| Override {
        path: path.into(),
        value: value.into(),
        origin: "--set".into(),
    };

    let loaded = Loader::new(&registry)
        .overrides([set("name", "other"), set("layers.concurrency", "7")])
        .load("t.toml", text)
        .unwrap();
    let mistakes = Loader::new(&registry)
        .overrides([set("layers.timeout", "30")])
        .load("t.toml", text)
        .unwrap_err();

    assert_eq!(loaded.name, "other");
    assert!(
        mistakes.to_string().contains("--set") && mistakes.to_string().contains("\"30s\""),
        "{mistakes}"
    );
}

#[test]
fn an_echo_has_the_defaults_and_no_secret() {
    let registry = registry();
    let text = "source = { type = \"words\", text = \"http://me:canary@host/\" }\nstore = { type = \"ram\" }\nsink = { type = \"collect\", into = \"x\", password = \"canary\" }\n";

    let echoed = echo(&schema(&registry), "t.toml", text, &[]).unwrap();

    assert_eq!(echoed.pointer("/sink/delay"), Some(&"1ms".into()));
    assert_eq!(echoed.pointer("/admin/listen"), Some(&"127.0.0.1:9090".into()));
    assert!(!echoed.to_string().contains("canary"), "{echoed}");
    assert!(!echoed.to_string().contains("null"), "{echoed}");
}

#[test]
fn a_component_that_does_not_say_how_stable_it_is_is_experimental() {
    let registry = registry();

    let words = registry.sources().find(|source| source.name == "words").unwrap();
    let shout = registry.layers().find(|layer| layer.name == "shout").unwrap();

    assert_eq!(words.summary, "the words of a text");
    assert_eq!(
        (words.stability, shout.stability),
        (Stability::Experimental, Stability::Beta)
    );
}

#[test]
fn the_schema_names_every_type() {
    let schema = schema(&registry()).to_string();

    for name in [
        "\"words\"",
        "\"collect\"",
        "\"ram\"",
        "\"shout\"",
        "\"route\"",
        "\"fanout\"",
        "\"fallback\"",
        "\"rate_limit\"",
    ] {
        assert!(schema.contains(name), "{name} is not in {schema}");
    }
}
