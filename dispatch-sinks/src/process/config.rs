use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Class, Sink,
    config::{BuildContext, ConfigError, Period, SinkConfig, Stability},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ProcessSink;

/// What runs the tasks, how many of them there are, and when they come and go.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ProcessSinkConfig {
    /// A worker of your own that speaks the protocol: a program and its arguments. Absent: a Python worker that comes along.
    pub command: Vec<String>,
    /// Which of the Python workers: the one that stands alone, or the one that runs dispatcherd's worker classes; that
    /// one by default if `worker_class` is set.
    pub shim: Option<Shim>,
    /// The Python that runs them; a name to look up in `PATH`, so that a virtual environment works, or a path.
    pub python: String,
    /// `zygote` imports a program once and forks a warm worker in milliseconds, `spawn` starts each from nothing.
    /// A `command` is always spawned.
    pub start_method: Option<StartMethod>,
    /// Modules that the zygote imports before it forks workers.
    pub preload: Vec<String>,
    /// How many workers there are at least.
    pub min: usize,
    /// How many workers there are at most; 0 is the number of CPUs.
    pub max: usize,
    /// How many tasks a worker holds at most, the one at work included; 1 to 64. The second hides the way through the pipe;
    /// more only while tasks are so short that all of them take a millisecond. Tasks with `on_duplicate` are never held
    /// behind another.
    pub prefetch: usize,
    /// How long so many workers must not have been needed before one of them is stopped.
    pub scaledown_wait: Period,
    /// How often the pool looks whether it has too many workers.
    pub scaledown_interval: Period,
    /// How many idle workers are kept above what is needed.
    pub scaledown_reserve: usize,
    /// How long a worker may take to be ready; then it is killed.
    pub start_wait: Period,
    /// How long a worker that was told to stop may take, once it is idle or its task is being cancelled; then it is killed.
    pub stop_wait: Period,
    /// How long the record of a dead worker is shown.
    pub removal_wait: Period,
    /// A worker older than this is replaced, after its task; `"0s"` is never.
    pub max_lifetime: Period,
    /// After so long without a task a worker calls its `on_idle`; `"0s"` is never.
    pub idle_timeout: Period,
    /// How long a task that is cancelled may go on before its worker gets SIGTERM; as long again, then SIGKILL.
    pub cancel_grace: Period,
    /// The class of a task whose worker died under it; `retry` only where tasks bear being run twice.
    pub on_crash: OnCrash,
    /// A worker class of your own, as `module.Class`.
    pub worker_class: Option<String>,
    /// What that class is made with.
    pub worker_kwargs: Map<String, Value>,
    /// Settings handed to the workers in `DISPATCH_WORKER_SETTINGS`: a table, or JSON as text.
    pub settings: Option<WorkerSettings>,
    /// Whether a task may be the text of a Python lambda, which is then evaluated: whoever can publish can run anything.
    pub lambda_tasks: bool,
    /// Patterns (`*`, `?`, `[a-z]`) of the names that tasks may have; none allows every importable one.
    pub task_allow: Vec<String>,
    /// Where what workers print goes: into the log by lines, or wherever dispatch's own output goes.
    pub output: Output,
}

impl Default for ProcessSinkConfig {
    fn default() -> Self {
        let seconds = |seconds| Period(Duration::from_secs(seconds));
        Self {
            command: Vec::new(),
            shim: None,
            python: "python3".to_owned(),
            start_method: None,
            preload: Vec::new(),
            min: 1,
            max: 0,
            prefetch: 8,
            scaledown_wait: seconds(15),
            scaledown_interval: seconds(15),
            scaledown_reserve: 0,
            start_wait: seconds(60),
            stop_wait: seconds(30),
            removal_wait: seconds(30),
            max_lifetime: seconds(4 * 60 * 60),
            idle_timeout: seconds(0),
            cancel_grace: seconds(10),
            on_crash: OnCrash::Permanent,
            worker_class: None,
            worker_kwargs: Map::new(),
            settings: None,
            lambda_tasks: false,
            task_allow: Vec::new(),
            output: Output::Log,
        }
    }
}

/// Which Python worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shim {
    /// `dispatch_worker.py`: needs nothing but Python.
    Standalone,
    /// `dispatch_dispatcherd.py`: runs dispatcherd's `TaskWorker` or a subclass of it; needs the package.
    Dispatcherd,
}

/// How workers come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartMethod {
    /// One process imports the program, the workers are forks of it.
    Zygote,
    /// Each worker starts from nothing.
    Spawn,
}

/// What becomes of a task whose worker died under it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    /// It is given up on.
    #[default]
    Permanent,
    /// It may run again.
    Retry,
}

impl OnCrash {
    pub(super) const fn class(self) -> Class {
        match self {
            Self::Permanent => Class::Permanent,
            Self::Retry => Class::Retry,
        }
    }
}

/// Where the workers' output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Into the log, line by line, with the worker's id.
    #[default]
    Log,
    /// Where dispatch's own goes.
    Inherit,
}

/// The workers' settings. They may hold passwords, so they are never printed.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum WorkerSettings {
    /// As a table.
    Table(Map<String, Value>),
    /// As JSON.
    Json(String),
}

impl std::fmt::Debug for WorkerSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for WorkerSettings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl JsonSchema for WorkerSettings {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WorkerSettings".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["object", "string"], "description": "a table, or JSON as text", "writeOnly": true })
    }
}

impl ProcessSinkConfig {
    /// Checks what cannot be meant.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field: &str, message: &str, help: &str| Err(ConfigError::at(field, message).help(help));
        let own = !self.command.is_empty();
        if self.command.iter().any(|word| word.contains('\0')) || self.command.first().is_some_and(String::is_empty) {
            return wrong(
                "command",
                "the program has no name",
                "write one such as [\"./worker\", \"--quiet\"]",
            );
        }
        if own && self.start_method == Some(StartMethod::Zygote) {
            return wrong(
                "start_method",
                "a `command` cannot be forked from the Python zygote",
                "write \"spawn\", or leave it out",
            );
        }
        if own && (self.shim.is_some() || self.worker_class.is_some()) {
            let field = if self.shim.is_some() { "shim" } else { "worker_class" };
            return wrong(
                field,
                "`command` names a worker of your own",
                "leave one of the two out",
            );
        }
        if !self.preload.is_empty() && (own || self.start_method == Some(StartMethod::Spawn)) {
            return wrong(
                "preload",
                "only the zygote imports modules before its workers start",
                "write start_method = \"zygote\"",
            );
        }
        if self.python.is_empty() {
            return wrong("python", "the program has no name", "write one such as \"python3\"");
        }
        if !(1..=64).contains(&self.prefetch) {
            return wrong(
                "prefetch",
                "a worker holds 1 to 64 tasks",
                "write a number from 1 to 64, such as 8",
            );
        }
        if self.max != 0 && self.max < self.min {
            return wrong(
                "max",
                "there are fewer workers at most than at least",
                "write `min` or more, or 0 for the number of CPUs",
            );
        }
        if self.scaledown_interval.0.is_zero() {
            return wrong(
                "scaledown_interval",
                "the pool would never do anything else",
                "write one such as \"15s\"",
            );
        }
        if let Some(at) = self
            .task_allow
            .iter()
            .position(|pattern| pattern.is_empty() || pattern.contains([',', '\0']))
        {
            let field = format!("task_allow.{at}");
            return wrong(
                &field,
                "a pattern is neither empty nor does it hold a comma",
                "write each as a text of its own",
            );
        }
        if let Some(at) = self
            .preload
            .iter()
            .position(|module| module.is_empty() || module.contains([',', '\0']))
        {
            return wrong(
                &format!("preload.{at}"),
                "this names no module",
                "write each as a text of its own",
            );
        }
        self.settings_json().map(drop)
    }

    /// The most workers there may be.
    pub(super) fn most(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.max == 0 {
            cpus().max(self.min).max(1)
        } else {
            self.max
        }
    }

    pub(super) fn shim(&self) -> Shim {
        match (self.shim, &self.worker_class) {
            (Some(shim), _) => shim,
            (None, Some(_)) => Shim::Dispatcherd,
            (None, None) => Shim::Standalone,
        }
    }

    /// What stands in `DISPATCH_WORKER_SETTINGS`.
    pub(super) fn settings_json(&self) -> Result<String, ConfigError> {
        let wrong =
            |message: &str| ConfigError::at("settings", message).help("write a table, or the text of a JSON object");
        let nothing_said =
            self.worker_class.is_none() && self.worker_kwargs.is_empty() && self.idle_timeout.0.is_zero();
        let mut settings = match &self.settings {
            // Then the workers find the settings as any program does: by DISPATCHERD_CONFIG_FILE.
            None if nothing_said => return Ok("{}".to_owned()),
            None => Map::new(),
            Some(WorkerSettings::Table(table)) => table.clone(),
            // Its place in the text would say something about the text, which may hold a password.
            Some(WorkerSettings::Json(text)) => {
                serde_json::from_str(text).map_err(|_| wrong("this is no JSON object"))?
            }
        };
        if self.shim() == Shim::Dispatcherd {
            // It takes no settings without their version, and there is one.
            settings.entry("version").or_insert_with(|| 2.into());
        }
        let worker = settings.entry("worker").or_insert_with(|| Map::new().into());
        let Value::Object(worker) = worker else {
            return Err(wrong("its member `worker` is no object"));
        };
        if let Some(class) = &self.worker_class {
            worker.insert("worker_cls".to_owned(), class.clone().into());
        }
        let kwargs = worker.entry("worker_kwargs").or_insert_with(|| Map::new().into());
        let Value::Object(kwargs) = kwargs else {
            return Err(wrong("its member `worker.worker_kwargs` is no object"));
        };
        kwargs.extend(self.worker_kwargs.clone());
        if !self.idle_timeout.0.is_zero() {
            kwargs.insert("idle_timeout".to_owned(), self.idle_timeout.0.as_secs_f64().into());
        }
        Ok(Value::Object(settings).to_string())
    }
}

impl SinkConfig for ProcessSinkConfig {
    const TYPE: &'static str = "process";
    const SUMMARY: &'static str = "hands tasks to a pool of long-lived worker processes, Python or your own";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(ProcessSink::new(self, context)?))
    }
}
