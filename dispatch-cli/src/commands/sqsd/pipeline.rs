//! The pipeline file that settings make. Secrets stand in it as `${NAME}`: what is printed holds none.

use super::settings::{Queue, Settings, StoreAt};
use crate::commands::page::{Page, period, quoted};

/// How much a lock of dedupe may outlast a process that was killed.
const LEASE: &str = "30s";

/// Writes the file.
pub(super) fn text(settings: &Settings) -> String {
    let mut page = Page::default();
    page.line("# What `dispatch sqsd` makes of its environment; `dispatch run` takes it as well.");
    page.pair("name", &name(settings));
    page.raw("prefetch", settings.prefetch);
    source(&mut page, settings);
    page.table("layers");
    page.raw("concurrency", settings.concurrency);
    page.pair("timeout", &settings.timeout.map_or_else(|| "off".to_owned(), period));
    page.line("# One POST a delivery: when to try again, and when to give up, is for the queue to say.");
    page.pair("retry", "off");
    sink(&mut page, settings);
    dedupe(&mut page, settings);
    store(&mut page, settings);
    page.table("admin");
    page.pair("listen", "off");
    page.table("monitoring");
    page.pair("listen", settings.monitoring.as_deref().unwrap_or("off"));
    page.0
}

/// The queue's name tells pipelines apart that share a store.
fn name(settings: &Settings) -> String {
    let (Queue::Url(queue) | Queue::Name(queue)) = &settings.queue;
    let queue = queue.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    format!("sqsd_{}", queue.chars().map(fit).collect::<String>())
}

fn source(page: &mut Page, settings: &Settings) {
    page.table(if settings.cron_file.is_some() {
        "source.queue"
    } else {
        "source"
    });
    page.pair("type", "sqs");
    match &settings.queue {
        Queue::Url(url) => page.pair("queue_url", url),
        Queue::Name(name) => page.pair("queue_name", name),
    }
    page.pair("region", &settings.region);
    page.maybe("endpoint_url", settings.endpoint.as_deref());
    if settings.own_credentials {
        page.line("access_key_id = \"${AWS_ACCESS_KEY_ID}\"");
        page.line("secret_access_key = \"${AWS_SECRET_ACCESS_KEY}\"");
    }
    page.pair("wait_time", &period(settings.wait_time));
    page.raw("pollers", settings.pollers);
    if let Some(batch) = settings.receive_batch {
        page.raw("receive_batch", batch);
    }
    page.pair("visibility_timeout", &period(settings.visibility));
    page.maybe(
        "error_visibility_timeout",
        settings.error_visibility.map(period).as_deref(),
    );
    page.maybe("retention", settings.retention.map(period).as_deref());
    if let Some(file) = &settings.cron_file {
        page.table("source.cron");
        page.pair("type", "sqsd_cron");
        page.pair("file", file);
        page.maybe("timezone", settings.cron_timezone.as_deref());
    }
}

fn sink(page: &mut Page, settings: &Settings) {
    page.table("sink");
    page.pair("type", "http");
    page.pair("url", &settings.url);
    page.pair("idempotency_header", "off");
    page.pair("retry_after_max", "12h");
    page.maybe("inactivity_timeout", settings.inactivity.map(period).as_deref());
    if let Some(header) = &settings.hmac_header {
        page.line(&format!(
            "hmac = {{ header = {}, secret = \"${{SQSD_HMAC_SECRET_KEY}}\" }}",
            quoted(header)
        ));
    }
    if let Some(url) = &settings.health_url {
        let timeout = quoted(&period(settings.health_timeout));
        page.line(&format!("health = {{ url = {}, timeout = {timeout} }}", quoted(url)));
    }
    page.table("sink.sqsd");
    page.maybe("content_type", settings.content_type.as_deref());
    page.maybe("compat", settings.compat.as_deref());
}

/// Each message once within `LOCK_EXPIRE`; over processes where the store is one that they share.
fn dedupe(page: &mut Page, settings: &Settings) {
    page.table("dedupe");
    let (Queue::Url(queue) | Queue::Name(queue)) = &settings.queue;
    page.pair("scope", queue);
    page.pair("keep", &period(settings.lock_expire));
    page.pair("lease", LEASE);
    page.pair("sweep", &period(settings.unlock_interval));
    match (&settings.locker, &settings.store) {
        (Some(locker), _) => {
            let url = quoted(&format!("redis://{}/{}", locker.host, locker.database));
            page.line(&format!(
                "store = {{ type = \"redis\", url = {url}, prefix = {} }}",
                quoted(&locker.key)
            ));
        }
        (None, StoreAt::Redis) => page.line("store = { type = \"redis\", url = \"${SQSD_STORE}\" }"),
        (None, StoreAt::Memory | StoreAt::Sqlite(_) | StoreAt::Postgres) => {}
    }
}

fn store(page: &mut Page, settings: &Settings) {
    page.table("store");
    match &settings.store {
        StoreAt::Memory | StoreAt::Redis => page.pair("type", "memory"),
        StoreAt::Sqlite(path) => {
            page.pair("type", "sqlite");
            page.pair("path", path);
        }
        StoreAt::Postgres => {
            page.pair("type", "postgres");
            page.line("url = \"${SQSD_STORE}\"");
        }
    }
}
