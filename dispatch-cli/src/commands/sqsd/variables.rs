//! Which variables there are, and those that look as if they were meant to be one of them.

/// Every variable that means something here, with its like in the first version and in the family behind it.
pub(super) const KNOWN: [&str; 64] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "FETCHER_PARALLEL_COUNT",
    "FETCHER_WAIT_TIME",
    "HEALTHCHECK_MAX_ELAPSED_SECONDS",
    "HEALTHCHECK_MAX_REQUEST_MS",
    "HEALTHCHECK_URL",
    "INVOKER_PARALLEL_COUNT",
    "INVOKER_TIMEOUT",
    "INVOKER_URL",
    "LOCK_EXPIRE",
    "LOG_LEVEL",
    "MONITORING_HOST",
    "MONITORING_PORT",
    "QUEUE_URL",
    "REDIS_LOCKER_DBNAME",
    "REDIS_LOCKER_HOST",
    "REDIS_LOCKER_KEYNAME",
    "SQSD_AWS_ENDPOINT",
    "SQSD_COMPAT",
    "SQSD_CRON_FILE",
    "SQSD_CRON_TIMEZONE",
    "SQSD_ERROR_VISIBILITY_TIMEOUT",
    "SQSD_HMAC_SECRET_KEY",
    "SQSD_HTTP_CONTENT_TYPE",
    "SQSD_HTTP_HMAC_HEADER",
    "SQSD_HTTP_MAX_CONNS",
    "SQSD_HTTP_TIMEOUT",
    "SQSD_HTTP_URL",
    "SQSD_INACTIVITY_TIMEOUT",
    "SQSD_PREFETCH",
    "SQSD_QUEUE_MAX_MSGS",
    "SQSD_QUEUE_NAME",
    "SQSD_QUEUE_REGION",
    "SQSD_QUEUE_URL",
    "SQSD_QUEUE_WAIT_TIME",
    "SQSD_RETENTION_PERIOD",
    "SQSD_RUN_DAEMONIZED",
    "SQSD_SLEEP_SECONDS",
    "SQSD_SQS_HTTP_TIMEOUT",
    "SQSD_STORE",
    "SQSD_VISIBILITY_TIMEOUT",
    "SQSD_WORKER_CONCURRENCY",
    "SQSD_WORKER_HEALTH_URL",
    "SQSD_WORKER_TIMEOUT",
    "SQS_CONCURRENCY",
    "SQS_ENDPOINT_URL",
    "SQS_QUEUE_NAME",
    "SQS_QUEUE_URL",
    "SQS_WAIT_TIME_SECONDS",
    "STAT_SERVER_PORT",
    "UNLOCK_INTERVAL",
    "WORKER_DESTINATION_URL",
    "WORKER_INVOKE_TYPE",
    "WORKER_MAX_PROCESS_COUNT",
    // What the chain of credentials and the client of AWS read by themselves.
    "AWS_CONFIG_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_SHARED_CREDENTIALS_FILE",
];

/// Those that are accepted and change nothing, and why.
pub(super) const WITHOUT_EFFECT: [(&str, &str); 3] = [
    (
        "HEALTHCHECK_MAX_ELAPSED_SECONDS",
        "a worker that is not well is waited for, however long it takes",
    ),
    ("SQSD_SLEEP_SECONDS", "an empty receive has waited already"),
    ("SQSD_SQS_HTTP_TIMEOUT", "each call to SQS has a limit that fits it"),
];

/// What only ours begin with; whatever has one of these was meant for us.
const OURS: [&str; 5] = ["FETCHER_", "INVOKER_", "MONITORING_", "REDIS_LOCKER_", "SQSD_"];

/// The name that `name` was probably meant to be: none for a known one, and for what is somebody else's.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    if KNOWN.contains(&name) || name.starts_with("AWS_") {
        return None;
    }
    let nearest = KNOWN
        .into_iter()
        .map(|known| (strsim::osa_distance(name, known), known))
        .min()?;
    let ours = OURS.iter().any(|prefix| name.starts_with(prefix));
    // A short name is near to much.
    let near = nearest.0 <= 2 && name.len() >= 8;
    (ours || near).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_ours_is_given_its_name() {
        for (name, expected) in [
            ("INVOKER_URL", None),
            ("INVOKER_TIMOUT", Some("INVOKER_TIMEOUT")),
            ("QUEU_URL", Some("QUEUE_URL")),
            ("SQSD_COMPAT_MODE", Some("SQSD_COMPAT")),
            ("SQSD_VISIBILITY_TIMEOUTS", Some("SQSD_VISIBILITY_TIMEOUT")),
            ("MONITOR_PORT", None),
            ("MONITORNG_PORT", Some("MONITORING_PORT")),
            ("PATH", None),
            ("HOME", None),
            ("AWS_EC2_METADATA_DISABLED", None),
            ("LOG_LEVELS", Some("LOG_LEVEL")),
            ("WORKER_THREADS", None),
            ("QUEUES", None),
        ] {
            assert_eq!(meant(name), expected, "{name}");
        }
    }
}
