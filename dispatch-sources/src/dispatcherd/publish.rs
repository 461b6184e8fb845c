//! Where a program's own tasks go, as the settings say.

#[cfg(feature = "pg_notify")]
use dispatch_core::config::Secret;
use dispatch_core::config::Template;

use super::{PgBroker, Settings, SettingsError, model::DURABLE};

/// How a program publishes.
#[derive(Debug, Clone, Copy)]
pub enum Publishes<'s> {
    /// By notification, as `brokers.pg_notify` says: into its channels, over the sink `pg_notify`.
    Notify(&'s PgBroker),
    /// Into durable queues, as `brokers.dispatch_py.broker` says: those named as its channels, over the sink `queue`.
    Queue(&'s PgBroker),
}

impl Settings {
    /// How tasks are published: by the only broker, or by the one that `publish.default_broker` names. So the one key that makes the
    /// tasks of Python publishers durable does the same for a program that heeds it.
    ///
    /// ```
    /// use dispatch_sources::dispatcherd::{Publishes, Settings};
    ///
    /// let broker = serde_json::json!({ "config": { "dbname": "app" }, "channels": ["jobs"] });
    /// let with = |name: &str| Settings::from_value(serde_json::json!({ "version": 2, "brokers": { name: broker } }));
    /// assert!(matches!(with("pg_notify")?.publishes()?, Publishes::Notify(_)));
    /// assert!(matches!(with("dispatch_py.broker")?.publishes()?, Publishes::Queue(_)));
    /// # Ok::<_, dispatch_sources::dispatcherd::SettingsError>(())
    /// ```
    ///
    /// # Errors
    /// There is none, there are two and none is named, or the named one is none of the two.
    pub fn publishes(&self) -> Result<Publishes<'_>, SettingsError> {
        let notify = self.pg_notify.as_ref().map(Publishes::Notify);
        let queue = self.durable.as_ref().map(Publishes::Queue);
        let wrong = |message: String| SettingsError::Value {
            at: "publish.default_broker".to_owned(),
            message,
        };
        match self.publish.default_broker.as_deref() {
            Some("pg_notify" | "dispatcherd.brokers.pg_notify") => notify,
            Some(DURABLE) => queue,
            Some(other) => {
                let message = format!("by `{other}` no task is published from here: write `pg_notify` or `{DURABLE}`");
                return Err(wrong(message));
            }
            None if notify.is_some() && queue.is_some() => {
                let message =
                    format!("which of two brokers to publish by is not said: write `pg_notify` or `{DURABLE}`");
                return Err(wrong(message));
            }
            None => notify.or(queue),
        }
        .ok_or(SettingsError::NoBroker)
    }
}

impl PgBroker {
    /// Where each task goes: to the queue that its options name, else [`publish_channel`](Self::publish_channel). It is what the sinks
    /// `pg_notify` and `queue` take for their `channel` and `queue`.
    ///
    /// # Errors
    /// As `publish_channel`.
    pub fn publish_template(&self) -> Result<Template, SettingsError> {
        let channel = self.publish_channel()?;
        let template = format!("{{{{ header:queue | default {channel:?} }}}}");
        template.parse().map_err(|error| SettingsError::Value {
            at: "brokers: channels".to_owned(),
            message: format!("{channel:?} fits into no template: {error}"),
        })
    }

    /// The connection as a URL, for a store of type `postgres`.
    ///
    /// # Errors
    /// As [`dsn`](Self::dsn), or it is no connection.
    #[cfg(feature = "pg_notify")]
    pub fn url(&self) -> Result<Secret, SettingsError> {
        let server = dispatch_pg_client::Server::parse(self.dsn()?.expose()).map_err(|error| SettingsError::Value {
            at: "brokers: config".to_owned(),
            message: error.to_string(),
        })?;
        Ok(Secret::new(server.url()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_settings_say_how_tasks_are_published() {
        let broker = json!({ "config": { "dbname": "app" }, "channels": ["jobs"] });
        for (brokers, default, expected) in [
            (json!({ "pg_notify": broker }), json!(null), "notify"),
            (
                json!({ "pg_notify": broker }),
                json!("dispatcherd.brokers.pg_notify"),
                "notify",
            ),
            (json!({ DURABLE: broker }), json!(null), "queue"),
            (json!({ DURABLE: broker, "pg_notify": broker }), json!(DURABLE), "queue"),
            (
                json!({ DURABLE: broker, "pg_notify": broker }),
                json!("pg_notify"),
                "notify",
            ),
            (
                json!({ DURABLE: broker, "pg_notify": broker }),
                json!(null),
                "which of two",
            ),
            (json!({ "pg_notify": broker }), json!(DURABLE), "there is no"),
            (json!({ "pg_notify": broker }), json!("socket"), "by `socket` no task"),
            (json!({ "socket": { "socket_path": "s" } }), json!(null), "there is no"),
        ] {
            let settings = json!({ "version": 2, "brokers": brokers, "publish": { "default_broker": default } });
            let settings = Settings::from_value(settings).unwrap();
            let found = match settings.publishes() {
                Ok(Publishes::Notify(_)) => "notify".to_owned(),
                Ok(Publishes::Queue(_)) => "queue".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{brokers} {default}: {found}");
        }
    }

    #[test]
    fn a_task_goes_to_its_own_queue_or_the_brokers() {
        let settings = json!({ "version": 2, "brokers": { "pg_notify": { "channels": ["Test \"é\" 1"] } } });
        let settings = Settings::from_value(settings).unwrap();
        let template = settings.pg_notify().unwrap().publish_template().unwrap();
        let message = dispatch_core::Message::new("x");

        assert_eq!(template.render(&message).unwrap(), "Test \"é\" 1");
        assert_eq!(template.render(&message.header("queue", "night")).unwrap(), "night");
    }
}
