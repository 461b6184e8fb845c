use std::path::PathBuf;

use super::VARIABLE;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Nobody has said where they are.
    #[error(
        "dispatcherd is not configured: set {VARIABLE} to a dispatcher.yml, or read one with Settings::from_file, or pass a value to \
         Settings::from_value"
    )]
    NotConfigured,
    /// The file cannot be read.
    #[error("read {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is no YAML.
    #[error("this is no YAML: {0}")]
    Yaml(String),
    /// The version is absent, or another one.
    #[error("version {0} of the configuration is not known here: write `version: 2`")]
    Version(String),
    /// A value that cannot be meant.
    #[error("{at}: {message}")]
    Value {
        /// The key, dotted.
        at: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// There is neither a `brokers.pg_notify` nor another that says what is wanted.
    #[error("brokers: there is no `pg_notify`")]
    NoBroker,
}
