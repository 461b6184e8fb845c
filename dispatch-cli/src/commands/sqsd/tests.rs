//! From variables to the pipeline file, and from there through the ordinary loader.

use std::{path::PathBuf, sync::Arc};

use dispatch_core::{
    MemoryStore, Registry, Source, Store,
    config::{BuildContext, ConfigError, Loader, Period, Secret, SourceConfig, StoreConfig, StoreContext},
    testing::MemorySource,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{environment::Environment, pipeline, settings::Settings};

/// What the README of sqsd shows.
#[cfg(feature = "sqs")]
const SEED: &str = include_str!("../../../tests/cli/sqsd.env");
const BOTH: &[(&str, &str)] = &[
    ("QUEUE_URL", "http://127.0.0.1:9324/000000000000/jobs"),
    ("INVOKER_URL", "http://127.0.0.1:8080/work"),
];

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(
        [],
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

/// The file that these make beside queue and worker, as a value.
fn made(more: &[(&str, &str)]) -> toml::Value {
    let all: Vec<_> = BOTH.iter().chain(more).copied().collect();
    let read = Settings::read(&environment(&all));
    toml::from_str(&pipeline::text(&read.settings.unwrap())).unwrap()
}

fn at<'v>(value: &'v toml::Value, path: &str) -> Option<&'v toml::Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn shown(value: &toml::Value, path: &str) -> String {
    at(value, path).map_or_else(
        || "none".to_owned(),
        |value| value.to_string().trim_matches('"').to_owned(),
    )
}

#[test]
#[cfg(feature = "sqs")]
fn the_documented_defaults_hold() {
    let written = SEED.lines().filter(|line| !line.starts_with('#'));
    let variables: Vec<_> = written.filter_map(|line| line.split_once('=')).collect();
    let read = Settings::read(&environment(&variables));

    assert_eq!(read.notes, [] as [String; 0]);
    let text = pipeline::text(&read.settings.unwrap());
    insta::assert_snapshot!(text);
}

#[test]
fn each_variable_has_its_place() {
    for (variables, path, expected) in [
        (&[("INVOKER_TIMEOUT", "1m30s")][..], "layers.timeout", "1m30s"),
        (&[("INVOKER_TIMEOUT", "1m30s")], "source.visibility_timeout", "1m40s"),
        (&[("INVOKER_TIMEOUT", "5s")], "source.visibility_timeout", "30s"),
        (&[("INVOKER_TIMEOUT", "0")], "layers.timeout", "off"),
        (&[("INVOKER_TIMEOUT", "24h")], "source.visibility_timeout", "12h"),
        (
            &[("INVOKER_TIMEOUT", "90s"), ("SQSD_VISIBILITY_TIMEOUT", "30")],
            "source.visibility_timeout",
            "30s",
        ),
        (
            &[("SQSD_ERROR_VISIBILITY_TIMEOUT", "2")],
            "source.error_visibility_timeout",
            "2s",
        ),
        (
            &[("SQSD_ERROR_VISIBILITY_TIMEOUT", "0")],
            "source.error_visibility_timeout",
            "0s",
        ),
        (
            &[("SQSD_INACTIVITY_TIMEOUT", "299")],
            "sink.inactivity_timeout",
            "4m59s",
        ),
        (&[("SQSD_RETENTION_PERIOD", "345600")], "source.retention", "4days"),
        (&[("FETCHER_WAIT_TIME", "2500ms")], "source.wait_time", "2s"),
        (&[("FETCHER_WAIT_TIME", "1m")], "source.wait_time", "20s"),
        (&[("FETCHER_PARALLEL_COUNT", "4")], "source.pollers", "4"),
        (&[("INVOKER_PARALLEL_COUNT", "16")], "layers.concurrency", "16"),
        (&[("SQSD_PREFETCH", "5")], "prefetch", "5"),
        (&[("SQSD_COMPAT", "taiyoh")], "sink.sqsd.compat", "taiyoh"),
        (&[("SQSD_COMPAT", "beanstalk")], "sink.sqsd.compat", "beanstalk"),
        (
            &[("SQSD_HTTP_HMAC_HEADER", "X-Sig"), ("SQSD_HMAC_SECRET_KEY", "canary")],
            "sink.hmac.header",
            "X-Sig",
        ),
        (
            &[("SQSD_HTTP_HMAC_HEADER", "X-Sig"), ("SQSD_HMAC_SECRET_KEY", "canary")],
            "sink.hmac.secret",
            "${SQSD_HMAC_SECRET_KEY}",
        ),
        (
            &[("HEALTHCHECK_URL", "http://127.0.0.1/ok")],
            "sink.health.url",
            "http://127.0.0.1/ok",
        ),
        (
            &[("HEALTHCHECK_URL", "http://127.0.0.1/ok")],
            "sink.health.timeout",
            "1s",
        ),
        (
            &[
                ("HEALTHCHECK_URL", "http://127.0.0.1/ok"),
                ("HEALTHCHECK_MAX_REQUEST_MS", "250"),
            ],
            "sink.health.timeout",
            "250ms",
        ),
        (&[("MONITORING_PORT", "-1")], "monitoring.listen", "off"),
        (&[("MONITORING_PORT", "0")], "monitoring.listen", "127.0.0.1:0"),
        (
            &[("MONITORING_PORT", "7000"), ("MONITORING_HOST", "0.0.0.0")],
            "monitoring.listen",
            "0.0.0.0:7000",
        ),
        (&[("MONITORING_HOST", "::1")], "monitoring.listen", "[::1]:6969"),
        (
            &[("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "eu-west-2")],
            "source.region",
            "eu-west-1",
        ),
        (&[("AWS_DEFAULT_REGION", "eu-west-2")], "source.region", "eu-west-2"),
        (&[], "source.region", "ap-northeast-1"),
        (
            &[("QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/1/q")],
            "source.region",
            "eu-central-1",
        ),
        (
            &[("QUEUE_URL", "https://us-west-2.queue.amazonaws.com/1/q")],
            "source.region",
            "us-west-2",
        ),
        (
            &[("QUEUE_URL", "https://sqs-fips.us-east-1.amazonaws.com/1/q")],
            "source.region",
            "us-east-1",
        ),
        (
            &[("QUEUE_URL", "https://vpce-1-2.sqs.eu-west-3.vpce.amazonaws.com/1/q")],
            "source.region",
            "eu-west-3",
        ),
        (
            &[("QUEUE_URL", "https://sqs.us-east-2.api.aws/1/q")],
            "source.region",
            "us-east-2",
        ),
        (
            &[("SQS_ENDPOINT_URL", "http://127.0.0.1:9324")],
            "source.endpoint_url",
            "http://127.0.0.1:9324",
        ),
        (&[("SQS_ENDPOINT_URL", "")], "source.endpoint_url", "none"),
        (&[("LOCK_EXPIRE", "2h")], "dedupe.keep", "2h"),
        (&[("UNLOCK_INTERVAL", "30s")], "dedupe.sweep", "30s"),
        (&[], "dedupe.scope", "http://127.0.0.1:9324/000000000000/jobs"),
        (&[], "dedupe.store", "none"),
        (
            &[
                ("REDIS_LOCKER_HOST", "redis:6379"),
                ("REDIS_LOCKER_KEYNAME", "locks"),
                ("REDIS_LOCKER_DBNAME", "3"),
            ],
            "dedupe.store.url",
            "redis://redis:6379/3",
        ),
        (
            &[("REDIS_LOCKER_HOST", "redis:6379"), ("REDIS_LOCKER_KEYNAME", "locks")],
            "dedupe.store.prefix",
            "locks",
        ),
        (
            &[("SQSD_STORE", "redis://:canary@redis/0")],
            "dedupe.store.url",
            "${SQSD_STORE}",
        ),
        (&[("SQSD_STORE", "redis://:canary@redis/0")], "store.type", "memory"),
        (
            &[("SQSD_STORE", "postgres://u:canary@db/x")],
            "store.url",
            "${SQSD_STORE}",
        ),
        (&[("SQSD_STORE", "sqlite:sqsd.db")], "store.path", "sqsd.db"),
        (&[("SQSD_CRON_FILE", "cron.yaml")], "source.cron.file", "cron.yaml"),
        (
            &[("SQSD_CRON_FILE", "cron.yaml"), ("SQSD_CRON_TIMEZONE", "Asia/Tokyo")],
            "source.cron.timezone",
            "Asia/Tokyo",
        ),
        (&[("SQSD_CRON_FILE", "cron.yaml")], "source.queue.type", "sqs"),
        // Its like in the first version, and in the family.
        (
            &[("QUEUE_URL", ""), ("SQS_QUEUE_URL", "http://127.0.0.1/1/old")],
            "source.queue_url",
            "http://127.0.0.1/1/old",
        ),
        (
            &[("QUEUE_URL", ""), ("SQS_QUEUE_NAME", "old")],
            "source.queue_name",
            "old",
        ),
        (
            &[("INVOKER_URL", ""), ("WORKER_DESTINATION_URL", "http://127.0.0.1/old")],
            "sink.url",
            "http://127.0.0.1/old",
        ),
        (
            &[("QUEUE_URL", ""), ("SQSD_QUEUE_URL", "http://127.0.0.1/1/like")],
            "source.queue_url",
            "http://127.0.0.1/1/like",
        ),
        (
            &[("QUEUE_URL", ""), ("SQSD_QUEUE_NAME", "like")],
            "source.queue_name",
            "like",
        ),
        (
            &[("INVOKER_URL", ""), ("SQSD_HTTP_URL", "http://127.0.0.1/like")],
            "sink.url",
            "http://127.0.0.1/like",
        ),
        (&[("WORKER_INVOKE_TYPE", "HTTP")], "sink.type", "http"),
        (
            &[("MONITORING_HOST", "localhost")],
            "monitoring.listen",
            "127.0.0.1:6969",
        ),
        (
            &[("SQSD_STORE", "postgresql://u:canary@db/x")],
            "store.type",
            "postgres",
        ),
        (&[("SQSD_STORE", "memory")], "store.type", "memory"),
        (&[("SQSD_VISIBILITY_TIMEOUT", "2m")], "source.visibility_timeout", "2m"),
        (&[("WORKER_MAX_PROCESS_COUNT", "7")], "layers.concurrency", "7"),
        (&[("SQS_CONCURRENCY", "3")], "source.pollers", "3"),
        (&[("SQS_WAIT_TIME_SECONDS", "15")], "source.wait_time", "15s"),
        (&[("STAT_SERVER_PORT", "5956")], "monitoring.listen", "127.0.0.1:5956"),
        (&[("SQSD_QUEUE_WAIT_TIME", "10")], "source.wait_time", "10s"),
        (&[("SQSD_QUEUE_MAX_MSGS", "4")], "source.receive_batch", "4"),
        (&[("SQSD_QUEUE_REGION", "sa-east-1")], "source.region", "sa-east-1"),
        (&[("SQSD_HTTP_TIMEOUT", "15")], "layers.timeout", "15s"),
        (&[("SQSD_WORKER_TIMEOUT", "30000")], "layers.timeout", "30s"),
        (&[("SQSD_HTTP_MAX_CONNS", "25")], "layers.concurrency", "25"),
        (&[("SQSD_WORKER_CONCURRENCY", "3")], "layers.concurrency", "3"),
        (
            &[("SQSD_HTTP_CONTENT_TYPE", "text/plain")],
            "sink.sqsd.content_type",
            "text/plain",
        ),
        (
            &[("SQSD_WORKER_HEALTH_URL", "http://127.0.0.1/h")],
            "sink.health.url",
            "http://127.0.0.1/h",
        ),
        (
            &[("SQSD_AWS_ENDPOINT", "http://127.0.0.1:1")],
            "source.endpoint_url",
            "http://127.0.0.1:1",
        ),
        // What would be filled in is text here.
        (
            &[("SQSD_HTTP_CONTENT_TYPE", "a${HOME}\"b")],
            "sink.sqsd.content_type",
            "a$${HOME}\"b",
        ),
    ] {
        if cfg!(not(feature = "sqs")) && path == "source.region" {
            continue;
        }
        let made = made(variables);

        let text = match at(&made, path) {
            Some(toml::Value::String(text)) => text.clone(),
            _ => shown(&made, path),
        };
        assert_eq!(text, expected, "{variables:?} {path}");
        assert!(!made.to_string().contains("canary"), "{variables:?}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let read = Settings::read(&environment(&[
        ("QUEUE_URL", "MyQueue"),
        ("INVOKER_TIMEOUT", "60"),
        ("INVOKER_PARALLEL_COUNT", "0"),
        ("MONITORING_PORT", "70000"),
        ("MONITORING_HOST", "example.com"),
        ("LOG_LEVEL", "loud"),
        ("SQSD_COMPAT", "aws"),
        ("SQSD_RETENTION_PERIOD", "1.5s"),
        ("SQSD_VISIBILITY_TIMEOUT", "50000"),
        ("SQSD_HMAC_SECRET_KEY", "canary"),
        ("SQSD_STORE", "mysql://u:canary@db"),
        ("LOCK_EXPIRE", "-1h"),
        ("WORKER_INVOKE_TYPE", "lambda"),
    ]));

    let problems = read.settings.unwrap_err();
    for part in [
        "QUEUE_URL: \"MyQueue\" is not a URL",
        "INVOKER_URL is not set: write INVOKER_URL=http://",
        "INVOKER_TIMEOUT: \"60\" is not a length of time: write \"60s\"",
        "INVOKER_PARALLEL_COUNT: \"0\" is not a number from 1",
        "MONITORING_PORT: \"70000\" is not a number from -1 to 65535",
        "MONITORING_HOST: \"example.com\"",
        "LOG_LEVEL: \"loud\"",
        "SQSD_COMPAT: \"aws\"",
        "SQSD_RETENTION_PERIOD: \"1.5s\" is not whole seconds",
        "SQSD_VISIBILITY_TIMEOUT: \"50000\"",
        "SQSD_HTTP_HMAC_HEADER is not set",
        "SQSD_STORE: this is no store",
        "LOCK_EXPIRE: \"-1h\"",
        "WORKER_INVOKE_TYPE: \"lambda\"",
    ] {
        assert_eq!(
            problems.iter().filter(|problem| problem.contains(part)).count(),
            1,
            "{part}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 14, "{problems:#?}");
    assert!(!problems.concat().contains("canary"));
}

#[test]
fn what_changes_nothing_is_told_of() {
    let all = [
        BOTH,
        &[
            ("INVOKER_TIMOUT", "5s"),
            ("SQSD_SLEEP_SECONDS", "5"),
            ("SQSD_SQS_HTTP_TIMEOUT", "15"),
            ("HEALTHCHECK_MAX_ELAPSED_SECONDS", "10"),
            ("SQSD_RUN_DAEMONIZED", "0"),
            ("FETCHER_WAIT_TIME", "1500ms"),
            ("REDIS_LOCKER_HOST", "redis:6379"),
            ("SQSD_CRON_FILE", "cron.yaml"),
            ("PATH", "/bin"),
        ],
    ]
    .concat();

    let notes = Settings::read(&environment(&all)).notes;

    for part in [
        "INVOKER_TIMOUT means nothing here: did you mean INVOKER_TIMEOUT?",
        "SQSD_SLEEP_SECONDS has no effect",
        "SQSD_SQS_HTTP_TIMEOUT has no effect",
        "HEALTHCHECK_MAX_ELAPSED_SECONDS has no effect",
        "SQSD_RUN_DAEMONIZED=0 has no effect",
        "FETCHER_WAIT_TIME: SQS waits whole seconds up to 20: 1s are taken",
        "REDIS_LOCKER_KEYNAME is not set",
        "SQSD_CRON_FILE: each process fires the tasks on its own",
    ] {
        assert_eq!(
            notes.iter().filter(|note| note.contains(part)).count(),
            1,
            "{part}: {notes:#?}"
        );
    }
    assert_eq!(notes.len(), 8, "{notes:#?}");
}

#[test]
fn credentials_of_the_file_go_along_unseen_and_those_of_the_process_stay_where_they_are() {
    let pairs = |pairs: &[(&str, &str)]| -> Vec<_> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let keys = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "canary")];
    for (file, process, expected) in [
        (&keys[..], &[][..], true),
        (&[], &keys[..], false),
        (&keys[..], &keys[1..], true),
    ] {
        let file = [pairs(file), pairs(BOTH)].concat();

        let settings = Settings::read(&Environment::of(file, pairs(process))).settings.unwrap();

        let text = pipeline::text(&settings);
        assert_eq!(
            text.contains("secret_access_key = \"${AWS_SECRET_ACCESS_KEY}\""),
            expected,
            "{text}"
        );
        assert!(!text.contains("canary"));
    }
}

/// The keys of the source `sqs` that the preset may write.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are only read")]
struct Sqs {
    queue_url: Option<String>,
    queue_name: Option<String>,
    region: Option<String>,
    endpoint_url: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    wait_time: Period,
    pollers: usize,
    receive_batch: Option<usize>,
    visibility_timeout: Period,
    error_visibility_timeout: Option<Period>,
    retention: Option<Period>,
    #[serde(default)]
    wait_for_aws: bool,
}

impl SourceConfig for Sqs {
    const TYPE: &'static str = "sqs";
    const SUMMARY: &'static str = "stands where the source stands";

    fn build(self, _: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(MemorySource::new()))
    }
}

/// As `Sqs`, for the store in Redis.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are only read")]
struct Redis {
    url: Secret,
    prefix: Option<String>,
}

impl StoreConfig for Redis {
    const TYPE: &'static str = "redis";
    const SUMMARY: &'static str = "stands where the store stands";

    fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        Ok(Arc::new(MemoryStore::new()))
    }
}

#[test]
fn what_is_made_is_read_by_the_ordinary_loader_and_built() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("cron.yaml"), "version: 1\n").unwrap();
    let mut registry = Registry::new();
    crate::register(&mut registry);
    registry.source::<Sqs>().store::<Redis>();
    let all: &[(&str, &str)] = &[
        ("INVOKER_TIMEOUT", "5m"),
        ("FETCHER_PARALLEL_COUNT", "4"),
        ("INVOKER_PARALLEL_COUNT", "16"),
        ("SQSD_QUEUE_MAX_MSGS", "4"),
        ("SQSD_ERROR_VISIBILITY_TIMEOUT", "2"),
        ("SQSD_RETENTION_PERIOD", "3600"),
        ("SQSD_INACTIVITY_TIMEOUT", "30"),
        ("SQSD_PREFETCH", "3"),
        ("SQSD_COMPAT", "beanstalk"),
        ("SQSD_HTTP_HMAC_HEADER", "X-Sig"),
        ("SQSD_HMAC_SECRET_KEY", "secret"),
        ("SQSD_HTTP_CONTENT_TYPE", "text/plain"),
        ("SQSD_CRON_FILE", "cron.yaml"),
        ("HEALTHCHECK_URL", "http://127.0.0.1:8080/health"),
        ("REDIS_LOCKER_HOST", "127.0.0.1:6379"),
        ("REDIS_LOCKER_KEYNAME", "locks"),
        ("SQSD_STORE", "sqlite:sqsd.db"),
        ("SQS_ENDPOINT_URL", "http://127.0.0.1:9324"),
    ];
    for more in [
        &[][..],
        all,
        &[("SQSD_STORE", "redis://127.0.0.1/0")],
        &[("MONITORING_PORT", "-1"), ("INVOKER_TIMEOUT", "0")],
    ] {
        if cfg!(not(all(feature = "sqsd_cron", feature = "monitoring"))) && !more.is_empty() {
            continue;
        }
        let environment = environment(&[BOTH, more].concat());
        let text = pipeline::text(&Settings::read(&environment).settings.unwrap());
        let base: PathBuf = directory.path().into();
        let loader = Loader::new(&registry)
            .base_dir(base)
            .environment(environment.into_variables());

        let mut loaded = loader
            .load("sqsd", &text)
            .unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"));

        assert!(loaded.warnings.0.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(
            (loaded.name.as_str(), loaded.admin.listen.as_str()),
            ("sqsd_jobs", "off")
        );
        let store = loaded.build_store().unwrap();
        let built = loaded.build(&store).map(|builder| builder.build().unwrap());
        assert!(built.is_ok(), "{text}\n{:?}", built.err());
    }
}

#[test]
fn a_level_is_read_in_any_case() {
    for (level, expected) in [
        ("INFO", "info"),
        ("Debug", "debug"),
        ("warning", "warn"),
        ("ERROR", "error"),
        ("", "info"),
    ] {
        let all = [BOTH, &[("LOG_LEVEL", level)]].concat();

        let settings = Settings::read(&environment(&all)).settings.unwrap();

        assert_eq!(settings.log_level, expected, "{level:?}");
    }
}

#[test]
fn every_variable_has_a_row_here() {
    // What only Amazon's SDK reads is none of these: it is handed on as it is, whatever its name.
    let ours = super::variables::KNOWN.iter().filter(|name| !name.starts_with("AWS_"));

    let missing: Vec<_> = ours
        .filter(|name| !include_str!("tests.rs").contains(&format!("\"{name}\"")))
        .collect();

    assert_eq!(missing, [] as [&&str; 0]);
}

/// The page that promises all of this.
const PAGE: &str = include_str!("../../../../docs/sqsd.md");

#[test]
fn the_page_names_every_variable() {
    // What the chain of AWS reads by itself is named there as such.
    let ours = super::variables::KNOWN.iter().filter(|name| !name.starts_with("AWS_"));

    let missing: Vec<_> = ours.filter(|name| !PAGE.contains(&format!("`{name}"))).collect();

    assert_eq!(missing, [] as [&&str; 0]);
}

#[test]
#[cfg(feature = "sqs")]
fn the_defaults_of_elastic_beanstalk_are_read_as_the_page_says() {
    let part = PAGE.split("## Coming from Elastic Beanstalk").nth(1).unwrap();
    let block = part.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let variables: Vec<_> = block.lines().filter_map(|line| line.split_once('=')).collect();
    let read = Settings::read(&environment(&variables));

    assert_eq!(read.notes, [] as [String; 0]);
    let made: toml::Value = toml::from_str(&pipeline::text(&read.settings.unwrap())).unwrap();
    for (path, expected) in [
        ("source.queue.region", "eu-west-1"),
        ("source.queue.visibility_timeout", "5m"),
        ("source.queue.error_visibility_timeout", "2s"),
        ("source.queue.retention", "4days"),
        ("source.cron.file", "cron.yaml"),
        ("layers.concurrency", "50"),
        ("layers.timeout", "off"),
        ("sink.url", "http://localhost:80/"),
        ("sink.inactivity_timeout", "4m59s"),
        ("sink.sqsd.compat", "beanstalk"),
        ("store.path", "sqsd.db"),
    ] {
        assert_eq!(shown(&made, path), expected, "{path}");
    }
}

#[test]
fn every_setting_that_the_page_lays_over_the_pipeline_is_taken() {
    let mut registry = Registry::new();
    crate::register(&mut registry);
    registry.source::<Sqs>().store::<Redis>();
    let sets: Vec<_> = PAGE
        .split("`--set ")
        .skip(1)
        .map(|rest| rest.split('`').next().unwrap())
        .collect();
    assert!(sets.len() >= 5, "{sets:?}");
    for set in sets {
        // With a cron file there are two sources, and the queue's keys are one table deeper.
        let cron: &[(&str, &str)] = match set.starts_with("source.queue.") {
            true => &[("SQSD_CRON_FILE", "cron.yaml")],
            false => &[],
        };
        let environment = environment(&[BOTH, cron].concat());
        let text = pipeline::text(&Settings::read(&environment).settings.unwrap());
        let over = crate::config::OverArgs {
            set: vec![set.to_owned()],
            env_file: Vec::new(),
        };
        let variables = environment.into_variables();
        let overrides = over.overrides(&variables).unwrap();

        let loaded = Loader::new(&registry)
            .base_dir(PathBuf::from("."))
            .environment(variables)
            .overrides(overrides)
            .load("sqsd", &text);

        if cfg!(feature = "monitoring") {
            assert!(loaded.is_ok(), "{set}: {:?}", loaded.err());
        }
    }
}
