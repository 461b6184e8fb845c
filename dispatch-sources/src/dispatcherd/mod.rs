//! The configuration file of Ansible's dispatcherd, version 2, as programs and the preset read it.
//!
//! ```
//! use dispatch_sources::dispatcherd::Settings;
//!
//! let settings = Settings::from_yaml(r#"
//! version: 2
//! brokers:
//!   pg_notify:
//!     config: {conninfo: "dbname=app user=dispatch"}
//!     channels: [test_channel]
//! "#)?;
//! let broker = settings.pg_notify()?;
//! assert_eq!((broker.dsn()?.expose(), broker.publish_channel()?), ("dbname=app user=dispatch", "test_channel"));
//! # Ok::<_, dispatch_sources::dispatcherd::SettingsError>(())
//! ```
//!
//! [`Settings::find`] looks where dispatcherd looks: in the file that `DISPATCHERD_CONFIG_FILE` names. `Settings::source` (with feature
//! `pg_notify`) is what a service listens with.

mod broker;
mod error;
mod model;
mod publish;
mod service;
#[cfg(feature = "pg_notify")]
mod source;

use std::path::Path;

pub use broker::{PgBroker, SocketBroker};
use dispatch_core::config::Secret;
pub use error::SettingsError;
pub use model::{Publish, Settings};
pub use publish::Publishes;
use serde_json::Value;
pub use service::{MainKwargs, MetricsKwargs, PoolKwargs, ProcessManager, Service, Worker};

/// The environment variable that names the file.
pub const VARIABLE: &str = "DISPATCHERD_CONFIG_FILE";

impl Settings {
    /// Reads the file that `DISPATCHERD_CONFIG_FILE` names.
    ///
    /// # Errors
    /// It names none: the error says which other ways there are. Otherwise as [`from_file`](Self::from_file).
    pub fn find() -> Result<Self, SettingsError> {
        match std::env::var_os(VARIABLE) {
            Some(path) => Self::from_file(path),
            None => Err(SettingsError::NotConfigured),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or as [`from_yaml`](Self::from_yaml).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::from_yaml(&text)
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// No YAML, another version, an unknown key in a section (with the nearest one), a value of another type.
    pub fn from_yaml(text: &str) -> Result<Self, SettingsError> {
        let value: Value = serde_saphyr::from_str(text).map_err(|error| SettingsError::Yaml(error.to_string()))?;
        Self::from_value(value)
    }

    /// Reads a value: what dispatcherd's `setup()` takes.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml).
    pub fn from_value(value: Value) -> Result<Self, SettingsError> {
        model::read(value)
    }

    /// The broker `pg_notify`, or the durable one that stands in its place: where commands come and go. How tasks are published is
    /// said by [`publishes`](Self::publishes).
    ///
    /// # Errors
    /// There is none.
    pub fn pg_notify(&self) -> Result<&PgBroker, SettingsError> {
        self.pg_notify
            .as_ref()
            .or(self.durable.as_ref())
            .ok_or(SettingsError::NoBroker)
    }

    /// The unix socket, if that is where commands go: `publish.default_control_broker`, else `default_broker`, says so, or
    /// there is no other broker.
    #[must_use]
    pub fn control_socket(&self) -> Option<&SocketBroker> {
        let publish = &self.publish;
        let named = publish
            .default_control_broker
            .as_deref()
            .or(publish.default_broker.as_deref());
        let is_meant = match named {
            Some(name) => matches!(name, "socket" | "dispatcherd.brokers.socket"),
            None => self.pg_notify().is_err(),
        };
        self.socket.as_ref().filter(|_| is_meant)
    }

    /// All of it as JSON, as worker processes want it. It may hold passwords.
    #[must_use]
    pub fn as_json(&self) -> Secret {
        Secret::new(self.whole.to_string())
    }
}
