//! The pipeline file that settings make. What may hold passwords stands in it as `${NAME}`: what is printed holds none.

use std::time::Duration;

use dispatch_pg_client::Server;
use dispatch_sources::{
    dispatcherd::{PgBroker, ProcessManager, Settings, SettingsError},
    pg_notify::COMMANDS,
};
use serde_json::{Map, Value};

use super::OnStop;
use crate::commands::page::{Page, period, quoted};

/// The connection, as the file names it.
const DSN: &str = "DISPATCHERD_DSN";
/// All settings as JSON, as the file names them.
const SETTINGS: &str = "DISPATCHERD_SETTINGS";

/// The durable broker's connection as a URL, for the store.
const URL: &str = "DISPATCHERD_URL";
/// The durable broker's connection, where `pg_notify` stands beside it and has another.
const DURABLE_DSN: &str = "DISPATCHERD_DURABLE_DSN";

/// A file, and the variables that stand in it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) text: String,
    pub(super) variables: Vec<(String, String)>,
}

/// What the pipeline is called, where nobody shares its store.
const NAME: &str = super::NAME;
/// How much of a name that may be long is shown in another.
const SHOWN: usize = 40;
/// How many tasks a worker holds, while they are short.
const HELD: usize = 8;

pub(super) fn make(settings: &Settings, python: &str, on_stop: OnStop) -> Result<Made, SettingsError> {
    let mut page = Page::default();
    let broker = match settings.pg_notify() {
        Ok(broker) => Some(broker),
        // The socket alone brings what there is.
        Err(SettingsError::NoBroker) if settings.socket.is_some() => None,
        Err(error) => return Err(error),
    };
    page.line("# What `dispatch dispatcherd` makes of its configuration; `dispatch run` takes it as well, with");
    page.line(&match broker {
        Some(_) => format!("# {DSN} set to the connection and {SETTINGS} to the settings as JSON."),
        None => format!("# {SETTINGS} set to the settings as JSON."),
    });
    let durable = settings.durable.as_ref();
    page.pair(
        "name",
        &durable.map_or_else(|| NAME.to_owned(), |durable| project(settings, durable)),
    );
    if on_stop == OnStop::Cancel {
        page.pair("on_stop", "cancel");
    }
    let notified = if durable.is_some() { "source.notified" } else { "source" };
    if let Some(durable) = durable {
        queues(&mut page, settings, durable);
    }
    let mut variables = vec![(SETTINGS.to_owned(), settings.as_json().expose().to_owned())];
    match broker {
        Some(broker) => listeners(&mut page, settings, broker, notified, &mut variables)?,
        None => {
            page.table(notified);
            page.pair("type", "pg_notify");
            page.line("# No server: what there is comes by `control.socket`.");
            chunk_timeout(&mut page, settings);
        }
    }
    if durable.is_none() {
        page.line("# Nothing outlives this process but by the one key that makes tasks durable.");
        page.pair("overflow", "shed");
    }
    let socket = settings.socket.as_ref().map(|socket| socket.socket_path.as_str());
    control(&mut page, settings, notified, socket);
    for (task, options) in settings
        .schedule
        .iter()
        .filter(|(_, options)| !(durable.is_some_and(|durable| home(durable).is_some()) && over_processes(options)))
    {
        page.table(&format!("{notified}.schedule.{}", quoted(task)));
        page.pair("every", &seconds(options["schedule"].as_f64().unwrap_or_default()));
        page.raw("drift", true);
        message(&mut page, options, &["schedule", "task"])?;
    }
    for (task, options) in &settings.on_start {
        page.line(&format!("\n[[{notified}.on_start]]"));
        page.pair("task", task);
        message(&mut page, options, &["task"])?;
    }
    layers(&mut page, settings);
    sink(&mut page, settings, python);
    page.table("store");
    if let Some(durable) = durable {
        variables.push((URL.to_owned(), server(settings, durable)?.url()));
        page.pair("type", "postgres");
        page.line(&format!("url = \"${{{URL}}}\""));
        page.maybe("schema", durable.schema.as_deref());
    } else {
        page.pair("type", "memory");
    }
    page.table("admin");
    page.pair("listen", "off");
    Ok(Made {
        text: page.0,
        variables,
    })
}

/// A broker's server, told under the name that the file has for it: of the pipeline nobody has written a line.
pub(crate) fn server(settings: &Settings, broker: &PgBroker) -> Result<Server, SettingsError> {
    let is_durable = settings
        .durable
        .as_ref()
        .is_some_and(|durable| std::ptr::eq(durable, broker));
    let name = if is_durable { "dispatch_py.broker" } else { "pg_notify" };
    Server::parse(broker.dsn()?.expose()).map_err(|error| SettingsError::Value {
        at: format!("brokers.{name}.config"),
        message: error.to_string(),
    })
}

/// The source that listens to the channels of all brokers, or two where their connections differ.
fn listeners(
    page: &mut Page,
    settings: &Settings,
    broker: &PgBroker,
    notified: &str,
    variables: &mut Vec<(String, String)>,
) -> Result<(), SettingsError> {
    for broker in settings.pg_notify.iter().chain(&settings.durable) {
        server(settings, broker)?;
    }
    let dsn = broker.dsn()?;
    variables.insert(0, (DSN.to_owned(), dsn.expose().to_owned()));
    let other = settings.durable.as_ref().filter(|_| settings.pg_notify.is_some());
    let others = other.map(|other| Ok((other, other.dsn()?))).transpose()?;
    let mut channels: Vec<&String> = broker.channels.iter().collect();
    match others {
        // One connection is enough for both.
        Some((other, own)) if own.expose() == dsn.expose() => {
            channels.extend(
                other
                    .channels
                    .iter()
                    .filter(|channel| !broker.channels.contains(channel)),
            );
        }
        Some((other, own)) => {
            page.line("\n# Commands of the durable broker, and tasks that somebody sends by notification there.");
            let name = "source.notified_durable";
            listener(page, settings, name, DURABLE_DSN, other, &other.channels);
            control(page, settings, name, None);
            variables.push((DURABLE_DSN.to_owned(), own.expose().to_owned()));
        }
        None => {}
    }
    listener(page, settings, notified, DSN, broker, &channels);
    Ok(())
}

/// A source that listens.
fn listener(
    page: &mut Page,
    settings: &Settings,
    name: &str,
    dsn: &str,
    broker: &PgBroker,
    channels: &[impl AsRef<str>],
) {
    page.table(name);
    page.pair("type", "pg_notify");
    page.line(&format!("dsn = \"${{{dsn}}}\""));
    page.raw("channels", list(channels));
    page.pair("idle_check", &bound(broker.idle()));
    if let (Some(_), Some(age)) = (broker.idle(), broker.max_age()) {
        page.pair("self_check_max_age", &seconds(age));
    }
    chunk_timeout(page, settings);
}

fn chunk_timeout(page: &mut Page, settings: &Settings) {
    let chunks = settings
        .service
        .main_kwargs
        .chunk_message_timeout_seconds
        .unwrap_or(1_800.0);
    page.pair("chunk_timeout", &bound(Some(chunks).filter(|chunks| *chunks > 0.0)));
}

/// Who steers it.
fn control(page: &mut Page, settings: &Settings, name: &str, socket: Option<&str>) {
    page.table(&format!("{name}.control"));
    page.maybe("node_id", settings.service.main_kwargs.node_id.as_deref());
    page.maybe("socket", socket);
    if settings.control {
        page.raw("allow", list(&COMMANDS));
    }
}

/// The queue of tasks that name none: where schedules put theirs. Nobody here reads any but those of `channels`.
fn home(broker: &PgBroker) -> Option<&str> {
    let default = broker.default_publish_channel.as_ref();
    let default = default.filter(|default| broker.channels.contains(default));
    default.or(broker.channels.first()).map(String::as_str)
}

/// The pipeline's name. Projects may share a schema, and the store keeps what spills and which slots were fired under it.
fn project(settings: &Settings, durable: &PgBroker) -> String {
    // A broker that is there for publishers alone has no channels.
    let home = home(durable).or(settings.pg_notify.as_ref().and_then(home));
    home.map_or_else(|| NAME.to_owned(), |home| named(NAME, home))
}

/// `prefix` and a name of any characters, as one that a file can have: the same in every process, another for another name.
fn named(prefix: &str, name: &str) -> String {
    let fitting = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '_',
    };
    let shown: String = name.chars().take(SHOWN).map(fitting).collect();
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let digest: String = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}_{shown}_{digest}")
}

/// A queue for each channel, and the schedules, each slot once over all processes.
fn queues(page: &mut Page, settings: &Settings, broker: &PgBroker) {
    for (number, channel) in broker.channels.iter().enumerate() {
        page.table(&format!("source.queue_{number}"));
        page.pair("type", "queue");
        page.pair("queue", channel);
        page.line("# What `serial` and `queue_one` ask for.");
        page.raw("ordered", true);
    }
    let Some(home) = home(broker) else { return };
    let scheduled = settings.schedule.iter().filter(|(_, options)| over_processes(options));
    for (task, options) in scheduled {
        let mut message = options.as_object().cloned().unwrap_or_default();
        message.remove("schedule");
        message.insert("task".to_owned(), task.as_str().into());
        page.table(&format!("source.{}", named("schedule", task)));
        page.pair("type", "schedule");
        page.line("# As a publisher would: `delay` and `on_duplicate` are heeded there.");
        page.pair("queue", home);
        page.pair("misfire", "skip");
        page.pair("every", &seconds(options["schedule"].as_f64().unwrap_or_default()));
        page.pair("payload", &Value::Object(message).to_string());
    }
}

/// Slots of whole seconds can be agreed on; a shorter period is every process's own.
fn over_processes(options: &Value) -> bool {
    options["schedule"].as_f64().is_some_and(|every| every >= 1.0)
}

fn layers(page: &mut Page, settings: &Settings) {
    page.table("layers");
    page.raw("concurrency", workers(settings) * HELD);
    page.line("# A task's own `timeout` is its worker's to keep.");
    page.pair("timeout", "off");
    page.pair("breaker", "off");
    if settings.durable.is_none() {
        page.line("# What fails is logged and kept, and not tried again.");
        page.pair("retry", "off");
    } else {
        page.line("# A task that raises is kept, and not tried again. One whose worker or service is lost is: by `retry`, which has");
        page.line("# its defaults.");
    }
}

fn workers(settings: &Settings) -> usize {
    let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pool = &settings.service.pool_kwargs;
    pool.max_workers.unwrap_or_else(cpus).max(pool.min_workers).max(1)
}

fn sink(page: &mut Page, settings: &Settings, python: &str) {
    let (service, pool) = (&settings.service, &settings.service.pool_kwargs);
    page.table("sink");
    page.pair("type", "process");
    page.pair("shim", "dispatcherd");
    page.pair("python", python);
    let spawn = service.process_manager_cls == ProcessManager::Spawn;
    page.pair("start_method", if spawn { "spawn" } else { "zygote" });
    if !spawn {
        page.raw("preload", list(&service.process_manager_kwargs.preload_modules));
    }
    page.raw("min", pool.min_workers);
    page.raw("max", workers(settings));
    page.raw("prefetch", HELD);
    page.pair("scaledown_wait", &seconds(pool.scaledown_wait));
    page.pair("scaledown_interval", &seconds(pool.scaledown_interval.max(0.01)));
    page.raw("scaledown_reserve", pool.scaledown_reserve);
    page.pair("stop_wait", &seconds(pool.worker_stop_wait));
    page.pair("removal_wait", &seconds(pool.worker_removal_wait));
    page.pair(
        "max_lifetime",
        &seconds(pool.worker_max_lifetime_seconds.unwrap_or_default()),
    );
    if settings.durable.is_some() {
        page.line("# The queue keeps it: it is run again.");
        page.pair("on_crash", "retry");
    }
    page.raw("lambda_tasks", true);
    page.line(&format!("settings = \"${{{SETTINGS}}}\""));
    page.maybe("worker_class", settings.worker.worker_cls.as_deref());
}

/// The members of a task's message, but those that are the schedule's own.
fn message(page: &mut Page, options: &Value, but: &[&str]) -> Result<(), SettingsError> {
    let Value::Object(options) = options else { return Ok(()) };
    let members: Map<String, Value> = options
        .iter()
        .filter(|(key, _)| !but.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if members.is_empty() {
        return Ok(());
    }
    if holds_null(&members) {
        // TOML has no null, JSON has.
        page.pair("message", &Value::Object(members).to_string());
        return Ok(());
    }
    let value = toml::Value::try_from(members).map_err(|error| SettingsError::Value {
        at: "producers".to_owned(),
        message: error.to_string(),
    })?;
    // A dollar sign would be filled in.
    page.raw("message", value.to_string().replace('$', "$$"));
    Ok(())
}

fn holds_null(members: &Map<String, Value>) -> bool {
    fn is(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Object(members) => holds_null(members),
            Value::Array(items) => items.iter().any(is),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    members.values().any(is)
}

fn list(items: &[impl AsRef<str>]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

fn bound(limit: Option<f64>) -> String {
    limit.map_or_else(|| "off".to_owned(), seconds)
}

fn seconds(seconds: f64) -> String {
    period(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
