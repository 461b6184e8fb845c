use std::{path::PathBuf, time::Duration};

use dispatch_core::{
    Source,
    config::{BuildContext, ConfigError, Period, SourceConfig, Stability},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Misfire, SqsdCronSource};

/// Where the tasks are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SqsdCronSourceConfig {
    /// The file of tasks.
    #[serde(default = "defaults::file")]
    pub file: PathBuf,
    /// The clock that tasks follow which name none, by its IANA name; `UTC` by default.
    #[serde(default = "defaults::timezone")]
    pub timezone: String,
    /// What becomes of slots that nobody could fire in time.
    #[serde(default)]
    pub misfire: Misfire,
    /// How often the file is looked at; 5 s.
    #[serde(default = "defaults::reload")]
    pub reload: Period,
}

mod defaults {
    use super::{Duration, PathBuf, Period};

    pub(super) fn file() -> PathBuf {
        "cron.yaml".into()
    }
    pub(super) fn timezone() -> String {
        "UTC".to_owned()
    }
    pub(super) fn reload() -> Period {
        Period(Duration::from_secs(5))
    }
}

impl SqsdCronSourceConfig {
    /// The tasks of `file`, everything else by default.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            timezone: defaults::timezone(),
            misfire: Misfire::default(),
            reload: defaults::reload(),
        }
    }
}

impl SourceConfig for SqsdCronSourceConfig {
    const TYPE: &'static str = "sqsd_cron";
    const SUMMARY: &'static str = "makes a message for each periodic task of a cron.yaml";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(SqsdCronSource::new(&self, context)?))
    }
}
