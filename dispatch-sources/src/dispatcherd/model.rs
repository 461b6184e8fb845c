//! The sections of the file.

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    SettingsError,
    broker::{PgBroker, SocketBroker, given},
    service::{Service, Worker},
};

/// A whole file, read and checked.
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    /// `brokers.pg_notify`.
    pub pg_notify: Option<PgBroker>,
    /// `brokers.socket`.
    pub socket: Option<SocketBroker>,
    /// `brokers."dispatch_py.broker"`: tasks lie in a queue of the database, commands go by notifications.
    pub durable: Option<PgBroker>,
    /// Brokers under other names: modules that Python publishers import.
    pub other_brokers: Vec<(String, Value)>,
    /// `producers.ScheduledProducer`: each task's options, `schedule` among them.
    pub schedule: Map<String, Value>,
    /// `producers.OnStartProducer`: each task's options, in order.
    pub on_start: Map<String, Value>,
    /// Whether there is a `producers.ControlProducer`: tasks may start tasks.
    pub control: bool,
    /// `service`.
    pub service: Service,
    /// `publish`.
    pub publish: Publish,
    /// `worker`.
    pub worker: Worker,
    /// What is at the top and means nothing here.
    pub unknown: Vec<String>,
    pub(super) whole: Value,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("pg_notify", &self.pg_notify)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// The module that makes the tasks of Python publishers durable.
pub(super) const DURABLE: &str = "dispatch_py.broker";

/// `publish`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Publish {
    /// Which broker publishers take.
    pub default_broker: Option<String>,
    /// Which broker commands are sent by; that of publishers unless given.
    pub default_control_broker: Option<String>,
}

/// `producers`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Producers {
    #[serde(rename = "ScheduledProducer")]
    scheduled: Option<TaskSchedule>,
    #[serde(rename = "OnStartProducer")]
    on_start: Option<TaskList>,
    #[serde(rename = "ControlProducer", deserialize_with = "given")]
    control: Option<Option<Map<String, Value>>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct TaskSchedule {
    task_schedule: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct TaskList {
    task_list: Map<String, Value>,
}

/// The whole file, for its schema.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is wanted")]
struct Whole {
    /// 2
    #[schemars(extend("const" = 2))]
    version: u8,
    brokers: Option<Brokers>,
    producers: Option<Producers>,
    service: Option<Service>,
    publish: Option<Publish>,
    worker: Option<Worker>,
}

/// What has a dot in its name is a module that publishers import.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("patternProperties" = { "\\.": {} }))]
#[expect(dead_code, reason = "only its schema is wanted")]
struct Brokers {
    pg_notify: Option<PgBroker>,
    socket: Option<SocketBroker>,
    #[schemars(rename = "dispatch_py.broker", schema_with = "durable_broker", default)]
    durable: Option<PgBroker>,
}

/// As `pg_notify`, with one key more.
fn durable_broker(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = PgBroker::json_schema(generator);
    if let Some(Value::Object(properties)) = schema.ensure_object().get_mut("properties") {
        let one = serde_json::json!({ "type": ["string", "null"], "description": "where its tables lie" });
        properties.insert("schema".to_owned(), one);
    }
    schema
}

impl Settings {
    /// The JSON Schema of the file.
    #[must_use]
    pub fn schema() -> Value {
        schemars::schema_for!(Whole).to_value()
    }
}

pub(super) fn read(whole: Value) -> Result<Settings, SettingsError> {
    let Value::Object(mut top) = whole.clone() else {
        return Err(value("", "a table of sections is wanted"));
    };
    match top.remove("version") {
        Some(Value::Number(number)) if number.as_i64() == Some(2) => {}
        other => {
            let shown = other.map_or_else(|| "(none)".to_owned(), |version| version.to_string());
            return Err(SettingsError::Version(shown));
        }
    }
    let mut take = |name: &str| top.remove(name).filter(|section| !section.is_null());
    let (mut pg_notify, mut durable, mut socket, mut other_brokers) = (None, None, None, Vec::new());
    for (name, kwargs) in section::<Map<String, Value>>("brokers", take("brokers"))?.unwrap_or_default() {
        match name.as_str() {
            "pg_notify" | "dispatcherd.brokers.pg_notify" => pg_notify = section("brokers.pg_notify", Some(kwargs))?,
            "socket" | "dispatcherd.brokers.socket" => socket = section("brokers.socket", Some(kwargs))?,
            DURABLE => durable = section_of_durable(kwargs)?,
            dotted if dotted.contains('.') => other_brokers.push((name, kwargs)),
            unknown => {
                return Err(value(
                    "brokers",
                    &format!(
                        "unknown broker `{unknown}`{}: pg_notify, socket, or a module with a dot in its name",
                        near(unknown, ["pg_notify", "socket"])
                    ),
                ));
            }
        }
    }
    for broker in [&pg_notify, &durable].into_iter().flatten() {
        PgBroker::check(broker)?;
    }
    let producers = section::<Producers>("producers", take("producers"))?.unwrap_or_default();
    let publish = section("publish", take("publish"))?.unwrap_or_default();
    let service = section("service", take("service"))?.unwrap_or_default();
    let worker = section("worker", take("worker"))?.unwrap_or_default();
    let schedule = producers.scheduled.unwrap_or_default().task_schedule;
    for (task, options) in &schedule {
        let at = format!("producers.ScheduledProducer.task_schedule.{task}");
        let every = options.get("schedule").and_then(Value::as_f64);
        if every.is_none_or(|every| !every.is_finite() || every < 0.01) {
            return Err(value(&at, "`schedule`, a number of seconds from 0.01 on, is wanted"));
        }
    }
    Ok(Settings {
        pg_notify,
        durable,
        socket,
        other_brokers,
        schedule,
        on_start: producers.on_start.unwrap_or_default().task_list,
        control: producers.control.is_some(),
        service,
        publish,
        worker,
        unknown: top.into_iter().map(|(name, _)| name).collect(),
        whole,
    })
}

fn value(at: &str, message: &str) -> SettingsError {
    SettingsError::Value {
        at: if at.is_empty() {
            "the file".to_owned()
        } else {
            at.to_owned()
        },
        message: message.to_owned(),
    }
}

/// Reads the durable broker: as `pg_notify`, with one key more.
fn section_of_durable(mut kwargs: Value) -> Result<Option<PgBroker>, SettingsError> {
    let at = format!("brokers.{DURABLE}");
    let schema = match kwargs.as_object_mut().and_then(|kwargs| kwargs.remove("schema")) {
        None | Some(Value::Null) => None,
        // The module too takes an empty one for none.
        Some(Value::String(schema)) => Some(schema).filter(|schema| !schema.is_empty()),
        Some(_) => return Err(value(&format!("{at}.schema"), "the name of a schema is wanted")),
    };
    let broker: Option<PgBroker> = section(&at, Some(kwargs))?;
    Ok(broker.map(|broker| PgBroker { schema, ..broker }))
}

/// Reads a section; an absent one is none, as is `null`.
fn section<T: DeserializeOwned>(at: &str, section: Option<Value>) -> Result<Option<T>, SettingsError> {
    let Some(section) = section else { return Ok(None) };
    let section = if section.is_null() {
        Value::Object(Map::new())
    } else {
        section
    };
    serde_json::from_value(section).map(Some).map_err(|error| {
        let message = error.to_string();
        value(at, &format!("{message}{}", suggestion(&message)))
    })
}

/// The nearest of the names that serde lists after an unknown one.
fn suggestion(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match (message.starts_with("unknown "), names.next()) {
        (true, Some(unknown)) => near(unknown, names),
        _ => String::new(),
    }
}

fn near<'n>(unknown: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let nearest = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(2));
    nearest.map_or_else(String::new, |(_, name)| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: &str = r#"
version: 2
service:
  pool_kwargs: {max_workers: 4}
  main_kwargs: {node_id: demo-server-a}
  process_manager_kwargs: {preload_modules: [dispatcherd.testing]}
brokers:
  pg_notify:
    config: {conninfo: dbname=dispatch_db user=dispatch password='it''s' host=localhost}
    sync_connection_factory: dispatcherd.brokers.pg_notify.connection_saver
    channels: [test_channel, test_channel2]
    default_publish_channel: test_channel
producers:
  ScheduledProducer:
    task_schedule:
      tests.data.methods.print_hello: {schedule: 3}
  OnStartProducer:
    task_list:
      b.second: {}
      a.first: {kwargs: {x: 1}}
  ControlProducer: null
publish: {default_control_broker: socket, default_broker: pg_notify}
worker: {worker_kwargs: {idle_timeout: 3}}
extra: 1
"#;

    #[test]
    fn a_whole_file_is_read() {
        let settings = Settings::from_yaml(DEMO).unwrap();

        assert_eq!(settings.service.pool_kwargs.max_workers, Some(4));
        assert_eq!(settings.pg_notify().unwrap().publish_channel().unwrap(), "test_channel");
        assert_eq!(
            settings.on_start.keys().collect::<Vec<_>>(),
            ["b.second", "a.first"],
            "in their order"
        );
        assert!(settings.control && settings.unknown == ["extra"]);
        assert_eq!(
            settings.service.process_manager_cls,
            crate::dispatcherd::ProcessManager::ForkServer
        );
        assert_eq!(settings.worker.worker_kwargs["idle_timeout"], 3);
        assert!(!format!("{settings:?}").contains("it's"), "no password is told");
    }

    #[test]
    fn the_schema_is_the_durable_brokers_alone() {
        let read = |broker: &str, schema: &str| {
            let text = format!("version: 2\nbrokers: {{{broker}: {{channels: [a], schema: {schema}}}}}");
            Settings::from_yaml(&text)
        };

        let settings = read(DURABLE, "jobs").unwrap();

        assert_eq!(settings.pg_notify().unwrap().schema.as_deref(), Some("jobs"));
        assert_eq!(read(DURABLE, "null").unwrap().pg_notify().unwrap().schema, None);
        for (broker, schema, part) in [
            ("pg_notify", "jobs", "unknown field `schema`"),
            (DURABLE, "[a]", "the name of a schema"),
        ] {
            let error = read(broker, schema).unwrap_err().to_string();
            assert!(error.contains(part), "{broker}: {error}");
        }
    }

    #[test]
    fn no_modules_to_preload_may_be_written_as_null() {
        for (written, modules) in [("null", &[][..]), ("[a.b]", &["a.b".to_owned()])] {
            let text = format!("version: 2\nservice: {{process_manager_kwargs: {{preload_modules: {written}}}}}");
            let settings = Settings::from_yaml(&text).unwrap();
            assert_eq!(settings.service.process_manager_kwargs.preload_modules, modules);
        }
    }

    #[test]
    fn keywords_become_a_connection() {
        let broker = |config: Value| PgBroker {
            config: config.as_object().cloned(),
            ..PgBroker::default()
        };
        let config = serde_json::json!({ "dbname": "a b", "password": "it's \\", "port": 5433, "autocommit": true, "sslmode": null });

        assert_eq!(
            broker(config).dsn().unwrap().expose(),
            r"dbname='a b' password='it\'s \\' port='5433'"
        );
        for (conninfo, dsn) in [
            ("host=h", "host=h password='a&b' port='1'"),
            ("postgres://h/d", "postgres://h/d?password=a%26b&port=1"),
            ("postgres://h/d?user=u", "postgres://h/d?user=u&password=a%26b&port=1"),
        ] {
            let config = serde_json::json!({ "password": "a&b", "port": 1, "conninfo": conninfo });
            assert_eq!(broker(config).dsn().unwrap().expose(), dsn);
        }
        assert!(broker(Value::Null).dsn().unwrap_err().to_string().contains("conninfo"));
        assert!(broker(serde_json::json!({ "port": [1] })).dsn().is_err());
    }

    #[test]
    fn mistakes_are_told_with_the_nearest_name() {
        for (text, part) in [
            ("[]", "a table of sections"),
            ("a: [", "no YAML"),
            ("brokers: {}", "write `version: 2`"),
            ("version: 1", "version 1"),
            ("version: two", "version \"two\""),
            ("version: 2\nbrokers: {pg_notifi: {}}", "did you mean `pg_notify`?"),
            (
                "version: 2\nbrokers: {pg_notify: {chanels: []}}",
                "did you mean `channels`?",
            ),
            ("version: 2\nbrokers: {pg_notify: {channels: [\"\"]}}", "1 to 63 bytes"),
            (
                "version: 2\nbrokers: {pg_notify: {max_connection_idle_seconds: 1}}",
                "at most that",
            ),
            (
                "version: 2\nservice: {pool_kwargs: {max_worker: 3}}",
                "did you mean `max_workers`?",
            ),
            ("version: 2\nservice: {pool_kwargs: {max_workers: many}}", "service"),
            (
                "version: 2\nproducers: {ScheduleProducer: null}",
                "did you mean `ScheduledProducer`?",
            ),
            (
                "version: 2\nproducers: {ScheduledProducer: {task_schedule: {a.b: {schedule: soon}}}}",
                "a number of seconds",
            ),
            (
                "version: 2\nservice: {process_manager_cls: ForkManager}",
                "unknown variant",
            ),
        ] {
            let error = Settings::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = SettingsError::NotConfigured.to_string();
        for way in ["DISPATCHERD_CONFIG_FILE", "from_file", "from_value"] {
            assert!(error.contains(way), "{error}");
        }
    }
}
