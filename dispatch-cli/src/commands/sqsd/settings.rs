//! What the variables say: every one read, every problem told at once.

use std::{fmt::Display, net::IpAddr, str::FromStr, time::Duration};

use super::{
    duration,
    environment::Environment,
    variables::{WITHOUT_EFFECT, meant},
};

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Queue {
    Url(String),
    Name(String),
}

/// Where what must outlive a delivery is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreAt {
    Memory,
    Sqlite(String),
    /// Its URL is in `SQSD_STORE`, which may hold a password.
    Postgres,
    /// As `Postgres`; for dedupe alone.
    Redis,
}

/// Sqsd's own locker in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locker {
    pub(super) host: String,
    pub(super) database: u32,
    pub(super) key: String,
}

/// What the variables say, filled up with sqsd's defaults.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) queue: Queue,
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
    /// Whether the file has credentials, which the chain of AWS does not see.
    pub(super) own_credentials: bool,
    pub(super) wait_time: Duration,
    pub(super) pollers: usize,
    pub(super) receive_batch: Option<usize>,
    pub(super) visibility: Duration,
    pub(super) error_visibility: Option<Duration>,
    pub(super) retention: Option<Duration>,
    pub(super) prefetch: usize,
    pub(super) url: String,
    /// None: as long as it takes.
    pub(super) timeout: Option<Duration>,
    pub(super) inactivity: Option<Duration>,
    pub(super) concurrency: usize,
    pub(super) content_type: Option<String>,
    pub(super) compat: Option<String>,
    pub(super) hmac_header: Option<String>,
    pub(super) health_url: Option<String>,
    pub(super) health_timeout: Duration,
    pub(super) cron_file: Option<String>,
    pub(super) cron_timezone: Option<String>,
    pub(super) store: StoreAt,
    pub(super) locker: Option<Locker>,
    pub(super) lock_expire: Duration,
    pub(super) unlock_interval: Duration,
    /// None: none.
    pub(super) monitoring: Option<String>,
    pub(super) log_level: String,
}

/// What was read, and what a person should know of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) settings: Result<Settings, Vec<String>>,
    pub(super) notes: Vec<String>,
}

/// The longest visibility of SQS, and the longest wait of one of its receives.
const LONGEST_VISIBILITY: Duration = Duration::from_secs(43_200);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

struct Reader<'a> {
    environment: &'a Environment,
    problems: Vec<String>,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// The first of these that is set.
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names
            .iter()
            .find_map(|name| Some((*name, self.environment.get(name)?.to_owned())))
    }

    fn text(&self, names: &[&str]) -> Option<String> {
        self.first(names).map(|(_, value)| value)
    }

    /// The first of these that is set, read; a value that cannot be is a problem.
    fn read<T>(&mut self, names: &[&str], parse: impl Fn(&str, &str) -> Result<T, String>) -> Option<T> {
        let (name, value) = self.first(names)?;
        match parse(name, &value) {
            Ok(read) => Some(read),
            Err(problem) => {
                self.problems.push(format!("{name}: {problem}"));
                None
            }
        }
    }

    fn number<T: FromStr + PartialOrd + Display + Copy>(&mut self, names: &[&str], least: T, most: T) -> Option<T> {
        self.read(names, |_, value| match value.parse::<T>() {
            Ok(number) if number >= least && number <= most => Ok(number),
            _ => Err(format!("\"{value}\" is not a number from {least} to {most}")),
        })
    }

    /// A length of time by a variable that says its unit, or by one of the family, whose unit is known.
    fn period(&mut self, go: &[&str], seconds: &[&str], millis: &[&str]) -> Option<Duration> {
        let names: Vec<_> = [go, seconds, millis].concat();
        self.read(&names, |name, value| match value.parse::<u64>() {
            Ok(number) if seconds.contains(&name) => Ok(Duration::from_secs(number)),
            Ok(number) if millis.contains(&name) => Ok(Duration::from_millis(number)),
            _ => duration::parse(value),
        })
    }

    /// Whole seconds, as a number or with a unit, within bounds.
    fn seconds(&mut self, name: &str, least: u64, most: u64) -> Option<Duration> {
        self.read(&[name], |_, value| {
            let wrong = || format!("\"{value}\" is not whole seconds from {least} to {most}");
            let period = match value.parse::<u64>() {
                Ok(number) => Duration::from_secs(number),
                Err(_) => duration::parse(value).map_err(|_| wrong())?,
            };
            let whole = period.subsec_nanos() == 0 && (least..=most).contains(&period.as_secs());
            if whole { Ok(period) } else { Err(wrong()) }
        })
    }

    fn url(&mut self, names: &[&str]) -> Option<String> {
        self.read(names, |_, value| {
            let uri: Option<http::Uri> = value.parse().ok();
            let whole =
                uri.is_some_and(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
            if whole {
                Ok(value.to_owned())
            } else {
                Err(format!("\"{value}\" is not a URL that begins with http:// or https://"))
            }
        })
    }

    fn required<T>(&mut self, found: Option<T>, names: &[&str], example: &str) -> Option<T> {
        if found.is_none() && self.first(names).is_none() {
            self.problems
                .push(format!("{} is not set: write {}={example}", names[0], names[0]));
        }
        found
    }
}

impl Settings {
    /// Reads the variables.
    pub(super) fn read(environment: &Environment) -> Read {
        let mut reader = Reader {
            environment,
            problems: Vec::new(),
            notes: Vec::new(),
        };
        for name in environment.names() {
            if let Some(meant) = meant(name) {
                reader
                    .notes
                    .push(format!("{name} means nothing here: did you mean {meant}?"));
            }
        }
        for (name, why) in WITHOUT_EFFECT {
            if environment.get(name).is_some() {
                reader.notes.push(format!("{name} has no effect: {why}"));
            }
        }
        if environment.get("SQSD_RUN_DAEMONIZED") == Some("0") {
            let words = "SQSD_RUN_DAEMONIZED=0 has no effect: this runs until it is told to end";
            reader.notes.push(words.to_owned());
        }
        let settings = gather(&mut reader);
        let Reader { problems, notes, .. } = reader;
        let settings = match settings {
            Some(settings) if problems.is_empty() => Ok(settings),
            _ => Err(problems),
        };
        Read { settings, notes }
    }
}

fn gather(reader: &mut Reader<'_>) -> Option<Settings> {
    const QUEUE: [&str; 3] = ["QUEUE_URL", "SQS_QUEUE_URL", "SQSD_QUEUE_URL"];
    const QUEUE_NAME: [&str; 2] = ["SQS_QUEUE_NAME", "SQSD_QUEUE_NAME"];
    const KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    const WORKER: [&str; 3] = ["INVOKER_URL", "WORKER_DESTINATION_URL", "SQSD_HTTP_URL"];
    let queue_url = reader.url(&QUEUE);
    let queue = match (queue_url, reader.text(&QUEUE_NAME)) {
        (Some(url), _) => Some(Queue::Url(url)),
        (None, Some(name)) if reader.first(&QUEUE).is_none() => Some(Queue::Name(name)),
        (None, _) => None,
    };
    let queue = reader.required(
        queue,
        &QUEUE,
        "https://sqs.ap-northeast-1.amazonaws.com/123456789012/MyQueue",
    );
    let url = reader.url(&WORKER);
    let url = reader.required(url, &WORKER, "http://127.0.0.1:8080/work");
    if let Some(kind) = reader
        .text(&["WORKER_INVOKE_TYPE"])
        .filter(|kind| !kind.eq_ignore_ascii_case("http"))
    {
        reader.problems.push(format!(
            "WORKER_INVOKE_TYPE: \"{kind}\" is not a way to call workers: write http"
        ));
    }
    let timeout = reader.period(&["INVOKER_TIMEOUT"], &["SQSD_HTTP_TIMEOUT"], &["SQSD_WORKER_TIMEOUT"]);
    // To Go's client, no time at all is no limit.
    let timeout = Some(timeout.unwrap_or(Duration::from_secs(60))).filter(|timeout| !timeout.is_zero());
    let (wait_time, wait_given) = wait_time(reader);
    let visibility = reader.seconds("SQSD_VISIBILITY_TIMEOUT", 2, LONGEST_VISIBILITY.as_secs());
    let hmac_header = hmac(reader);
    let region = region(reader, queue.as_ref());
    let locker = locker(reader);
    let store = store(reader);
    let settings = Settings {
        region,
        endpoint: reader.url(&["SQS_ENDPOINT_URL", "SQSD_AWS_ENDPOINT"]),
        own_credentials: KEYS.iter().all(|name| reader.environment.get(name).is_some())
            && KEYS.iter().any(|name| reader.environment.is_from_file(name)),
        wait_time: if wait_given { wait_time } else { Duration::from_secs(1) },
        pollers: reader
            .number(&["FETCHER_PARALLEL_COUNT", "SQS_CONCURRENCY"], 1, 100)
            .unwrap_or(1),
        receive_batch: reader.number(&["SQSD_QUEUE_MAX_MSGS"], 1, 10),
        visibility: visibility.unwrap_or_else(|| visibility_for(timeout)),
        error_visibility: reader.seconds("SQSD_ERROR_VISIBILITY_TIMEOUT", 0, LONGEST_VISIBILITY.as_secs()),
        retention: reader.seconds("SQSD_RETENTION_PERIOD", 60, 1_209_600),
        prefetch: reader.number(&["SQSD_PREFETCH"], 0, 100_000).unwrap_or(0),
        timeout,
        inactivity: reader.seconds("SQSD_INACTIVITY_TIMEOUT", 1, 36_000),
        concurrency: concurrency(reader),
        content_type: reader.text(&["SQSD_HTTP_CONTENT_TYPE"]),
        compat: reader.read(&["SQSD_COMPAT"], |_, value| match value {
            "taiyoh" | "beanstalk" => Ok(value.to_owned()),
            _ => Err(format!(
                "\"{value}\" is neither taiyoh (below 500 is a success) nor beanstalk (200 alone is)"
            )),
        }),
        hmac_header,
        health_url: reader.url(&["HEALTHCHECK_URL", "SQSD_WORKER_HEALTH_URL"]),
        health_timeout: Duration::from_millis(
            reader
                .number(&["HEALTHCHECK_MAX_REQUEST_MS"], 1, 3_600_000)
                .unwrap_or(1_000),
        ),
        cron_file: reader.text(&["SQSD_CRON_FILE"]),
        cron_timezone: reader.text(&["SQSD_CRON_TIMEZONE"]),
        store,
        locker,
        lock_expire: positive(reader, "LOCK_EXPIRE", Duration::from_secs(86_400)),
        unlock_interval: positive(reader, "UNLOCK_INTERVAL", Duration::from_secs(60)),
        monitoring: monitoring(reader),
        log_level: log_level(reader),
        // What is missing has been told.
        queue: queue.unwrap_or_else(|| Queue::Name(String::new())),
        url: url.unwrap_or_default(),
    };
    if settings.cron_file.is_some() && matches!(settings.store, StoreAt::Memory | StoreAt::Redis) {
        reader.notes.push(
            "SQSD_CRON_FILE: each process fires the tasks on its own: several need one store, as SQSD_STORE=postgres://…".to_owned(),
        );
    }
    Some(settings)
}

/// The wait of a receive: whole seconds, as SQS has them.
fn wait_time(reader: &mut Reader<'_>) -> (Duration, bool) {
    let names = ["FETCHER_WAIT_TIME", "SQS_WAIT_TIME_SECONDS", "SQSD_QUEUE_WAIT_TIME"];
    let Some(wait) = reader.period(&names[..1], &names[1..], &[]) else {
        return (Duration::ZERO, false);
    };
    let whole = Duration::from_secs(wait.as_secs()).min(LONGEST_WAIT);
    if whole != wait {
        let name = reader.first(&names).map(|(name, _)| name).unwrap_or_default();
        reader.notes.push(format!(
            "{name}: SQS waits whole seconds up to 20: {}s are taken",
            whole.as_secs()
        ));
    }
    (whole, true)
}

/// Long enough for an invocation and its delete, without the heartbeat even.
fn visibility_for(timeout: Option<Duration>) -> Duration {
    // Without a limit there is the heartbeat: a process that was killed should not hold its messages for hours.
    let Some(timeout) = timeout else {
        return Duration::from_secs(300);
    };
    let whole = Duration::from_secs(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0));
    let least = Duration::from_secs(30);
    whole
        .saturating_add(Duration::from_secs(10))
        .clamp(least, LONGEST_VISIBILITY)
}

fn concurrency(reader: &mut Reader<'_>) -> usize {
    let names = [
        "INVOKER_PARALLEL_COUNT",
        "WORKER_MAX_PROCESS_COUNT",
        "SQSD_HTTP_MAX_CONNS",
        "SQSD_WORKER_CONCURRENCY",
    ];
    reader.number(&names, 1, 100_000).unwrap_or(1)
}

/// The header of the proof; header and secret go together.
fn hmac(reader: &mut Reader<'_>) -> Option<String> {
    match (
        reader.text(&["SQSD_HTTP_HMAC_HEADER"]),
        reader.text(&["SQSD_HMAC_SECRET_KEY"]),
    ) {
        (Some(header), Some(_)) => Some(header),
        (Some(_), None) => {
            reader
                .problems
                .push("SQSD_HMAC_SECRET_KEY is not set, but SQSD_HTTP_HMAC_HEADER is: set both or none".to_owned());
            None
        }
        (None, Some(_)) => {
            reader
                .problems
                .push("SQSD_HTTP_HMAC_HEADER is not set, but SQSD_HMAC_SECRET_KEY is: set both or none".to_owned());
            None
        }
        (None, None) => None,
    }
}

/// What the environment says, else what the queue's URL says, else where sqsd comes from.
fn region(reader: &Reader<'_>, queue: Option<&Queue>) -> String {
    let of_url = || match queue {
        #[cfg(feature = "sqs")]
        Some(Queue::Url(url)) => dispatch_sqs_client::region_of(url),
        // What is made of it could not be run without the source.
        _ => None,
    };
    reader
        .text(&["AWS_REGION", "AWS_DEFAULT_REGION", "SQSD_QUEUE_REGION"])
        .or_else(of_url)
        .unwrap_or_else(|| "ap-northeast-1".to_owned())
}

fn locker(reader: &mut Reader<'_>) -> Option<Locker> {
    let database = reader
        .number(&["REDIS_LOCKER_DBNAME"], 0, u32::from(u16::MAX))
        .unwrap_or(0);
    match (
        reader.text(&["REDIS_LOCKER_HOST"]),
        reader.text(&["REDIS_LOCKER_KEYNAME"]),
    ) {
        (Some(host), Some(key)) => Some(Locker { host, database, key }),
        (None, None) => None,
        (host, _) => {
            let missing = if host.is_some() {
                "REDIS_LOCKER_KEYNAME"
            } else {
                "REDIS_LOCKER_HOST"
            };
            reader.notes.push(format!(
                "{missing} is not set: the locker is in memory, as with sqsd; set both for Redis"
            ));
            None
        }
    }
}

fn store(reader: &mut Reader<'_>) -> StoreAt {
    reader
        .read(&["SQSD_STORE"], |_, value| {
            if value == "memory" {
                return Ok(StoreAt::Memory);
            }
            match value.split_once(':') {
                Some(("sqlite", path)) if !path.is_empty() => {
                    Ok(StoreAt::Sqlite(path.strip_prefix("//").unwrap_or(path).to_owned()))
                }
                Some(("postgres" | "postgresql", _)) => Ok(StoreAt::Postgres),
                Some(("redis" | "rediss" | "redis+unix", _)) => Ok(StoreAt::Redis),
                // It may hold a password, and is not shown.
                _ => Err("this is no store: write memory, sqlite:PATH, postgres://… or redis://…".to_owned()),
            }
        })
        .unwrap_or(StoreAt::Memory)
}

fn positive(reader: &mut Reader<'_>, name: &str, default: Duration) -> Duration {
    let read = reader.read(&[name], |_, value| match duration::parse(value)? {
        period if period < Duration::from_millis(10) => Err(format!("\"{value}\" is too short: write \"1m\" or so")),
        period => Ok(period),
    });
    read.unwrap_or(default)
}

fn monitoring(reader: &mut Reader<'_>) -> Option<String> {
    let host = reader.read(&["MONITORING_HOST"], |_, value| match value {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => value.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|_| {
            format!("\"{value}\" is not an address to listen on: write 127.0.0.1, or 0.0.0.0 for every network")
        }),
    });
    let port = reader
        .number(&["MONITORING_PORT", "STAT_SERVER_PORT"], -1, 65_535)
        .unwrap_or(6_969);
    let host = host.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let port = u16::try_from(port).ok()?;
    Some(std::net::SocketAddr::from((host, port)).to_string())
}

fn log_level(reader: &mut Reader<'_>) -> String {
    let level = reader.read(&["LOG_LEVEL"], |_, value| {
        let level = value.to_ascii_lowercase();
        match level.as_str() {
            "debug" | "info" | "warn" | "error" => Ok(level),
            "warning" => Ok("warn".to_owned()),
            _ => Err(format!("\"{value}\" is none of debug, info, warn and error")),
        }
    });
    level.unwrap_or_else(|| "info".to_owned())
}
