use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use dispatch_core::{
    Sink,
    config::{BuildContext, ByteSize, ConfigError, SinkConfig, Stability, Template, Verdict},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CommandSink;

/// What to run, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CommandSinkConfig {
    /// The program and its arguments. The program is fixed: a name to look up in `PATH`, or a path, which starts where
    /// the pipeline's relative paths do. Arguments may hold fields of the message; each stays one argument.
    pub command: Vec<Template>,
    /// Variables to set, over all others.
    #[serde(default)]
    pub env: BTreeMap<String, Template>,
    /// Start from an empty environment, without even `PATH`.
    #[serde(default)]
    pub env_clear: bool,
    /// Where the process runs; where dispatch does by default.
    pub cwd: Option<PathBuf>,
    /// How much of what it prints is kept, at most. Longer output still counts; its reply is cut there and carries the
    /// header `dispatch-truncated`.
    #[serde(default = "default_max_output")]
    pub max_output: ByteSize,
    /// What exit codes mean, over the defaults.
    #[serde(default)]
    pub exit_codes: BTreeMap<String, Verdict>,
}

fn default_max_output() -> ByteSize {
    ByteSize(1 << 20)
}

impl CommandSinkConfig {
    /// Runs `command`, everything else by default.
    pub fn new(command: impl IntoIterator<Item = Template>) -> Self {
        Self {
            command: command.into_iter().collect(),
            env: BTreeMap::new(),
            env_clear: false,
            cwd: None,
            max_output: default_max_output(),
            exit_codes: BTreeMap::new(),
        }
    }
}

impl SinkConfig for CommandSinkConfig {
    const TYPE: &'static str = "command";
    const SUMMARY: &'static str = "runs one process per message, with the payload on its standard input";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(CommandSink::new(&self, &context.base_dir)?))
    }
}
