//! What the settings say of the source `pg_notify`.

use std::time::Duration;

use dispatch_core::config::Period;
use serde_json::{Map, Value};

use super::{PgBroker, Settings, SettingsError};
use crate::pg_notify::{Bound, COMMANDS, Members, OnStart, Overflow, PgNotifySourceConfig, Scheduled};

impl Settings {
    /// The source `pg_notify` that the file asks for: its channels and connection, self-checks, the time that pieces have,
    /// `node_id`, the unix socket, the commands that are taken, schedules (late runs shift those after them, as in dispatcherd)
    /// and tasks of the start. What finds no room is shed.
    ///
    /// `service.pool_kwargs`, `service.metrics_kwargs` and `worker` are about worker processes and mean nothing to it. With the
    /// durable broker it brings commands, schedules and tasks that come by notification; those of the queue come by the source
    /// `queue`.
    ///
    /// ```
    /// use dispatch_sources::{dispatcherd::Settings, pg_notify::PgNotifySource};
    ///
    /// let settings = Settings::from_value(serde_json::json!({
    ///     "version": 2,
    ///     "brokers": { "pg_notify": { "config": { "dbname": "app" }, "channels": ["test_channel"] } },
    ///     "producers": { "ScheduledProducer": { "task_schedule": { "app.tasks.sweep": { "schedule": 3 } } } },
    /// }))?;
    /// let source = PgNotifySource::open(settings.source()?)?;
    /// # let _connects_at_first_use = source;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// There is neither a `brokers.pg_notify` nor a socket, the former has no connection, or an option of a task is no table.
    pub fn source(&self) -> Result<PgNotifySourceConfig, SettingsError> {
        let mut config = match self.pg_notify() {
            Ok(broker) => of_broker(broker)?,
            Err(SettingsError::NoBroker) if self.socket.is_some() => PgNotifySourceConfig::of_socket(),
            Err(error) => return Err(error),
        };
        let chunks = self.service.main_kwargs.chunk_message_timeout_seconds;
        if let Some(seconds) = chunks {
            config.chunk_timeout = Bound(Some(seconds).filter(|seconds| *seconds > 0.0).map(period));
        }
        config.overflow = Overflow::Shed;
        config.control.node_id.clone_from(&self.service.main_kwargs.node_id);
        config.control.socket = self.socket.as_ref().map(|socket| socket.socket_path.clone().into());
        config.control.allow = self.control.then(|| COMMANDS.map(str::to_owned).to_vec());
        for (task, options) in &self.schedule {
            let own = Scheduled {
                every: Period(period(options["schedule"].as_f64().unwrap_or_default())),
                drift: true,
                message: members(task, options)?,
            };
            config.schedule.insert(task.clone(), own);
        }
        for (task, options) in &self.on_start {
            config.on_start.push(OnStart {
                task: task.clone(),
                message: members(task, options)?,
            });
        }
        Ok(config)
    }
}

fn of_broker(broker: &PgBroker) -> Result<PgNotifySourceConfig, SettingsError> {
    let mut config = PgNotifySourceConfig::new(broker.dsn()?, &broker.channels);
    config.idle_check = Bound(broker.idle().map(period));
    if let (Some(_), Some(age)) = (broker.idle(), broker.max_age()) {
        config.self_check_max_age = Period(period(age));
    }
    Ok(config)
}

/// What goes into a task's message: all but what is the producer's own.
fn members(task: &str, options: &Value) -> Result<Members, SettingsError> {
    let mut members = match options {
        Value::Object(members) => members.clone(),
        Value::Null => Map::new(),
        _ => {
            return Err(SettingsError::Value {
                at: format!("producers: {task}"),
                message: "a table of options is wanted, such as {args: [1]}".to_owned(),
            });
        }
    };
    members.retain(|name, _| !matches!(name.as_str(), "schedule" | "task"));
    Ok(Members(members))
}

fn period(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
