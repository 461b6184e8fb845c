use dispatch_core::config::{Diagnostics, Loader};
use proptest::prelude::*;

use super::*;

fn mistakes(text: &str) -> Diagnostics {
    match Loader::new(&registry()).environment([]).load("bad.toml", text) {
        Err(mistakes) => mistakes,
        Ok(mut loaded) => {
            let store = loaded.build_store().unwrap();
            loaded.build(&store).expect_err("there is a mistake in it")
        }
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_each_with_its_place() {
    let text = r#"nme = "x"
drain_timeout = 25

[source]
type = "wrods"

[layers]
rate_limits = "100/s"
timeout = 30
retry = { max_attempt = 3, backoff = { base = "1 parsec", kind = "cubic" } }
breaker = { failures = "150%" }

[sink]
type = "collect"
inot = "here"
delay = "${NOT_SET}"
"#;

    let rendered = mistakes(text).to_string();

    insta::assert_snapshot!(rendered);
}

#[test]
fn each_mistake_says_what_is_right() {
    let good_source = "source = { type = \"words\", text = \"x\" }\n";
    let good_sink = "sink = { type = \"collect\", into = \"x\" }\n";
    let store = "store = { type = \"ram\" }\n";
    let table = [
        ("".to_owned(), "there is no `source`"),
        (
            format!("layers.retry.rules.throttled.max_attempts = 2\n{good_source}{good_sink}{store}"),
            "attempts that end as `throttled` are not counted",
        ),
        (format!("{good_source}{store}"), "there is no `sink`"),
        (
            format!("lanes = {{ key = \"key\", policy = \"park_key\" }}\n{good_source}{good_sink}{store}"),
            "it needs `order = true`",
        ),
        (
            format!("lanes = {{ key = \"key\", order = true, policy = \"park\" }}\n{good_source}{good_sink}{store}"),
            "allowed: `block` or `park_key`",
        ),
        (
            format!("source = {{ text = \"x\" }}\n{good_sink}{store}"),
            "this source has no `type`",
        ),
        (
            format!("source = 5\n{good_sink}{store}"),
            "a source is a table with a `type`",
        ),
        (
            format!("source = {{ type = \"amqp\" }}\n{good_sink}{store}"),
            "build with `--features amqp`",
        ),
        (
            format!("{good_source}sink = {{ type = \"http_client\" }}\n{store}"),
            "here it is called `http`",
        ),
        (
            format!("{good_source}{good_sink}store = {{ type = \"notes\" }}"),
            "`notes` goes under [dedupe]",
        ),
        (
            format!("{good_source}{good_sink}{store}dedupe = {{ keep = \"1ms\" }}"),
            "at least \"10ms\"",
        ),
        (
            format!("{good_source}{good_sink}{store}dedupe = {{ store = {{ type = \"note\" }} }}"),
            "did you mean `notes`?",
        ),
        (
            format!("source = {{ type = \"words\" }}\n{good_sink}{store}"),
            "`text` is missing",
        ),
        (
            format!("source = {{ type = \"words\", text = \"\" }}\n{good_sink}{store}"),
            "there are no words in it",
        ),
        (
            format!("name = \"Not A Name\"\n{good_source}{good_sink}{store}"),
            "\"not_a_name\"",
        ),
        (
            format!("{good_source}{good_sink}{store}layers.concurrency = 0"),
            "at least 1",
        ),
        (
            format!("{good_source}{good_sink}{store}layers.concurrency = {{ limits = {{ a = 1 }} }}"),
            "need a key",
        ),
        (
            format!("{good_source}{good_sink}{store}layers.retry.backoff.factor = 0.5"),
            "makes waits shorter",
        ),
        (
            format!("{good_source}{good_sink}{store}layers.breaker.failures = 50"),
            "write \"50%\"",
        ),
        (format!("{good_source}{good_sink}{store}then = 5"), "`then` is a list"),
        (
            format!("{good_source}{store}sink = {{ type = \"route\", by = \"header:x\" }}"),
            "`routes` is missing",
        ),
        (
            format!(
                "{good_source}{store}sink = {{ type = \"route\", by = \"hdr:x\", routes.a = {{ type = \"collect\", into = \"x\" }} }}"
            ),
            "hdr:x",
        ),
        (
            format!("{good_source}{store}sink = {{ type = \"fanout\" }}"),
            "`sinks` is missing",
        ),
        (format!("{good_source}{good_sink}{store}[sink]\n"), "sink"),
        ("a = \"unfinished".to_owned(), "here"),
        (format!("{good_source}{good_sink}{store}name = \"${{A:b}}\""), "${A:-b}"),
    ];
    for (text, part) in table {
        let rendered = mistakes(&text).to_string();
        assert!(
            rendered.contains(part),
            "{text}\nshould say {part:?} and says\n{rendered}"
        );
    }
}

#[test]
fn mistakes_about_a_shared_rate_name_the_field_and_its_line() {
    let table = [
        ("on_error = \"open\"", "only a shared rate can lose its store"),
        ("share = \"50%\"", "only a shared rate can lose its store"),
        ("shared = \"\"", "the name is empty"),
        ("key = \"id\"\nshared = \"api\"", "a shared rate is one for all keys"),
        (
            "rates = { a = \"1/s\" }\nshared = \"api\"",
            "leave out `key` and `rates`, or `shared`",
        ),
        ("shared = \"api\"\nshare = \"0%\"", "a share of nothing moves nothing"),
        (
            "shared = \"api\"\non_error = \"open\"\nshare = \"50%\"",
            "keeps a share",
        ),
        ("shared = \"api\"\non_error = \"shut\"", "`local_share`"),
    ];
    for (lines, part) in table {
        let text = format!(
            "source = {{ type = \"words\", text = \"x\" }}\nsink = {{ type = \"collect\", into = \"x\" }}\n\
             store.type = \"ram\"\n[layers.rate_limit]\nrate = \"100/s\"\n{lines}\n"
        );
        let wrong = text.lines().count();

        let rendered = mistakes(&text).to_string();

        assert!(
            rendered.contains(part) && rendered.contains(&format!("bad.toml:{wrong}:")),
            "{lines}\nshould say {part:?} at line {wrong} and says\n{rendered}"
        );
    }
}

const SEEDS: [&str; 3] = [
    "name = \"x\"\n[source]\ntype = \"words\"\ntext = \"a ${B:-c}\"\n[layers]\nconcurrency = 5\nretry = { backoff = [\"1s\"] }\n[sink]\ntype = \"collect\"\ninto = \"x\"\n[store]\ntype = \"ram\"\n",
    "[source.a]\ntype = \"words\"\ntext = \"\"\"x\"\"\"\n[[then]]\ntype = \"route\"\nby = \"id\"\n[sink]\ntype = \"fanout\"\nsinks = [{}, {}]\n",
    "layers.rate_limit.rate = \"1/s\"\nlayers.timeout = 1e400\nsource = [1, {a = 1}]\nadmin = { listen = 1979-05-27 }\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        drop(Loader::new(&registry()).environment([]).load("any.toml", &text));
    }

    #[test]
    fn no_change_to_a_good_text_makes_it_panic(seed in 0usize..3, at in any::<prop::sample::Index>(), cut in 0usize..12, put in "[\\[\\]{}=\"'.,#\\n$ a-z0-9é]{0,8}") {
        let seed = SEEDS[seed];
        let boundary = |mut at: usize| { while !seed.is_char_boundary(at) { at -= 1 } at };
        let start = boundary(at.index(seed.len()));
        let end = boundary((start + cut).min(seed.len())).max(start);
        let text = format!("{}{put}{}", &seed[..start], &seed[end..]);
        if let Ok(mut loaded) = Loader::new(&registry()).environment([]).load("any.toml", &text) {
            let store = loaded.build_store().unwrap();
            drop(loaded.build(&store));
        }
    }

    #[test]
    fn no_value_of_a_variable_adds_a_key(value in ".*") {
        let text = "source = { type = \"words\", text = \"${X:-none}\" }\nsink = { type = \"collect\", into = \"${X:-none}\" }\nstore = { type = \"ram\" }";
        let loaded = Loader::new(&registry()).environment([("X".to_owned(), value)]).load("t.toml", text);

        prop_assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
    }
}

#[test]
fn what_was_filled_in_is_never_printed() {
    let text = "source = { type = \"words\", text = \"x\" }\nsink = { type = \"collect\", into = \"x\", delay = \"${SECRET}\" }\nstore = { type = \"ram\" }\nlanes = \"${SECRET}\"\n";

    let mistakes = Loader::new(&registry())
        .environment([("SECRET".to_owned(), "can\"ary".to_owned())])
        .load("t.toml", text)
        .unwrap_err();

    assert!(!mistakes.to_string().contains("ary"), "{mistakes}");
}
