//! Whose dead letters go with the end of the message: of those whose messages wait in the Store that keeps the letters.

use std::sync::Arc;

use dispatch_core::{Source, Store, config::SourceConfig};
use dispatch_sources::{
    http::HttpSourceConfig, queue::QueueSourceConfig, schedule::ScheduleSourceConfig, sqsd_cron::SqsdCronSourceConfig,
    startup::StartupSourceConfig,
};

use crate::{context, memory};

fn build<C: SourceConfig + serde::de::DeserializeOwned>(toml: &str, store: &Arc<dyn Store>) -> Box<dyn Source> {
    let config: C = toml::from_str(toml).unwrap();
    let directory = tempfile::tempdir().unwrap();
    config.build(&context(directory.path(), Arc::clone(store))).unwrap()
}

#[tokio::test]
async fn sources_over_the_queue_of_a_store_keep_their_letters_in_that_store() {
    let store: Arc<dyn Store> = memory();
    let other: Arc<dyn Store> = memory();
    let table = [
        ("queue", build::<QueueSourceConfig>(r#"queue = "q""#, &store), true),
        (
            "schedule",
            build::<ScheduleSourceConfig>(r#"every = "1m""#, &store),
            true,
        ),
        (
            "schedule, cancel",
            build::<ScheduleSourceConfig>("every = \"1m\"\noverlap = \"cancel\"", &store),
            true,
        ),
        (
            "sqsd_cron",
            build::<SqsdCronSourceConfig>(r#"file = "cron.yaml""#, &store),
            true,
        ),
        (
            "http, async",
            build::<HttpSourceConfig>("listen = \"127.0.0.1:0\"\nmode = \"async\"", &store),
            true,
        ),
        (
            "http, sync",
            build::<HttpSourceConfig>("listen = \"127.0.0.1:0\"\nmode = \"sync\"", &store),
            false,
        ),
        (
            "startup",
            build::<StartupSourceConfig>(r#"payload = "x""#, &store),
            false,
        ),
    ];

    for (name, source, keeps) in table {
        assert_eq!(source.keeps_letters_in(&store), keeps, "{name}");
        assert!(!source.keeps_letters_in(&other), "{name}: another store");
    }
}
