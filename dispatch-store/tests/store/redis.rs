use std::{process::Stdio, sync::Arc, time::Duration};

use dispatch_core::{
    Class, Store,
    config::{Period, Secret, StoreConfig, StoreContext},
    random_id,
    store::{DeadLetterFilter, Reservation},
    testing::store::part_battery,
};
use dispatch_store::RedisConfig;

/// None where there is no server; in CI that is a failure.
pub(crate) fn server(test: &str) -> Option<String> {
    let url = std::env::var("DISPATCH_TEST_REDIS_URL").ok();
    if url.is_none() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "{test}: CI must set DISPATCH_TEST_REDIS_URL"
        );
        let line = format!("skipped: {test}: DISPATCH_TEST_REDIS_URL is not set\n");
        // Not `eprintln`, which the harness keeps to itself when a test passes.
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    url
}

fn open(url: &str) -> Arc<dyn Store> {
    open_as(url, &format!("test-{}", random_id()))
}

pub(crate) fn open_as(url: &str, prefix: &str) -> Arc<dyn Store> {
    let mut config = RedisConfig::new(Secret::new(url));
    config.prefix = prefix.to_owned();
    config.connect_timeout = Period(Duration::from_secs(2));
    config.build(&StoreContext { base_dir: ".".into() }).unwrap()
}

#[tokio::test]
async fn the_redis_store_passes_the_battery_of_its_roles() {
    let Some(url) = server("the_redis_store_passes_the_battery_of_its_roles") else {
        return;
    };

    part_battery(open(&url)).await;
}

#[tokio::test]
async fn what_it_does_not_keep_it_refuses() {
    let store = open("redis://127.0.0.1:1/");

    let error = store
        .dead_letters()
        .count(&DeadLetterFilter::default())
        .await
        .unwrap_err();

    assert_eq!(error.class(), Class::Permanent);
    assert!(error.to_string().contains("name another one under [store]"), "{error}");
}

#[tokio::test]
async fn no_server_and_a_stranger_are_unavailable_and_no_password_is_told() {
    let Some(url) = server("no_server_and_a_stranger_are_unavailable_and_no_password_is_told") else {
        return;
    };
    let stranger = url.replace("redis://", "redis://nobody:c4n4ry@");

    for url in ["redis://:c4n4ry@127.0.0.1:1/", &stranger] {
        let error = open(url).probe().await.unwrap_err();

        assert_eq!(error.class(), Class::Unavailable, "{error:?}");
        assert!(!format!("{error:?} {}", error.report()).contains("c4n4ry"), "{error:?}");
        assert!(error.to_string().contains("127.0.0.1:"), "{error}");
    }
    let error = RedisConfig::new(Secret::new("c4n4ry://x"))
        .build(&StoreContext { base_dir: ".".into() })
        .unwrap_err();
    assert!(!error.to_string().contains("c4n4ry"), "{error}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    if server("a_server_that_comes_back_is_used_again").is_none() {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let start = || {
        tokio::process::Command::new("redis-server")
            .args(["-", "--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut first = start();
    let store = open(&format!("redis://127.0.0.1:{port}/"));
    let reserve = async || {
        let lease = Duration::from_secs(60);
        let reserved = async {
            loop {
                if let Ok(found) = store.reservations().reserve("key", "me", lease).await {
                    return found;
                }
                // The server has no other sign that it is there.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reserved).await.unwrap()
    };
    assert_eq!(reserve().await, Reservation::Reserved);
    first.kill().await.unwrap();

    let while_away = store.probe().await.unwrap_err();
    let _second = start();

    assert_eq!(while_away.class(), Class::Unavailable, "{while_away:?}");
    assert_eq!(reserve().await, Reservation::Reserved);
}
