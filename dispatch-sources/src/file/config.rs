use dispatch_core::{
    Source,
    config::{BuildContext, ByteSize, ConfigError, SourceConfig, Stability},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FileSource, Format};

/// Which files, and how to read them.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileSourceConfig {
    /// Paths, or patterns with `*`, `?`, `[…]` and `**`. What of a path that does not exist and a pattern without a match is
    /// said by `missing`. A file that several of them name is read once.
    pub paths: Vec<String>,
    /// What a line must be.
    #[serde(default)]
    pub format: Format,
    /// The longest line that is a message.
    #[serde(default = "default_max_line")]
    pub max_line: ByteSize,
    /// Where to begin.
    #[serde(default)]
    pub from: Begin,
    /// What to do where there is no such file or no match as the run begins.
    #[serde(default)]
    pub missing: Missing,
}

/// What to do where there is no such file, or no match for a pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// End the run with an error.
    #[default]
    Error,
    /// Look again until it is there.
    Wait,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// Where the last run of this pipeline came to.
    #[default]
    Saved,
    /// At the start, whatever the last run did.
    Start,
}

fn default_max_line() -> ByteSize {
    ByteSize(1 << 20)
}

impl FileSourceConfig {
    /// Reads `paths`, everything else by default.
    pub fn new<P: Into<String>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            format: Format::default(),
            max_line: default_max_line(),
            from: Begin::default(),
            missing: Missing::default(),
        }
    }
}

impl SourceConfig for FileSourceConfig {
    const TYPE: &'static str = "file";
    const SUMMARY: &'static str = "pulls lines from files";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(FileSource::new(&self, context)?))
    }
}
